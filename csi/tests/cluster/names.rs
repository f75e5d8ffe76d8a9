//! A server of names for pods (RFC 1035, of which it knows what one question needs): some domains, with all that is
//! below, are at one address; nothing else is anywhere.

use std::net::{Ipv4Addr, UdpSocket};

const PORT: u16 = 53;
const HEADER: usize = 12;
/// An answer that was asked for recursively, and one that says that there is no such name.
const FOUND: [u8; 2] = [0x81, 0x80];
const NO_SUCH_NAME: [u8; 2] = [0x81, 0x83];
/// An A record of class IN for the name at the beginning of the question, for four seconds.
const RECORD: [u8; 12] = [0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 4, 0, 4];

/// Answers at an address until the process ends: what is below `domains` is there, too.
pub(crate) fn serve(address: Ipv4Addr, domains: &'static [&'static str]) {
    let socket = UdpSocket::bind((address, PORT)).expect("nobody else answers for names");
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut packet) {
            if let Some(answer) = answer(&packet[..length], address, domains) {
                let _ = socket.send_to(&answer, peer);
            }
        }
    });
}

fn answer(query: &[u8], address: Ipv4Addr, domains: &[&str]) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(std::str::from_utf8(query.get(at..at + length)?).ok()?.to_lowercase());
        at += length;
    }
    let question = query.get(HEADER..at + 4)?;
    let is_address = question.ends_with(&[0, 1, 0, 1]);
    let name = format!(".{}", labels.join("."));
    let is_known = domains.iter().any(|domain| name.ends_with(&format!(".{domain}")));
    let records = u8::from(is_known && is_address);
    let mut answer = query.get(..2)?.to_vec();
    answer.extend(if is_known { FOUND } else { NO_SUCH_NAME });
    answer.extend([0, 1, 0, records, 0, 0, 0, 0]);
    answer.extend(question);
    if records > 0 {
        answer.extend(RECORD);
        answer.extend(address.octets());
    }
    Some(answer)
}
