//! Google's uploads in parts (its XML protocol), which fake-gcs-server lacks: a front that takes the parts, puts them
//! together, and stores the whole by the protocol that the server behind it has. Everything else goes through.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Parts of an upload by number.
type Parts = BTreeMap<u32, Vec<u8>>;

/// What a request has.
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    /// By names in small letters.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// Uploads by name: the headers that they began with, and their parts.
type Uploads = Arc<Mutex<BTreeMap<String, (Vec<(String, String)>, Parts)>>>;

/// What each request to a front said of who asks, by the front's address.
static AUTHORIZATIONS: Mutex<BTreeMap<SocketAddr, Vec<String>>> = Mutex::new(BTreeMap::new());

/// What the requests to a front have said of who asks.
pub(crate) fn authorizations(front: SocketAddr) -> Vec<String> {
    let mut all = AUTHORIZATIONS.lock().expect("no thread failed");
    all.remove(&front).unwrap_or_default()
}

/// Serves on an address in front of a server for as long as the process lasts.
pub(crate) fn serve(address: SocketAddr, behind: SocketAddr) {
    let listener = TcpListener::bind(address).expect("a free port");
    let uploads = Uploads::default();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let uploads = uploads.clone();
            // A client that is gone ends its thread.
            std::thread::spawn(move || converse(client, address, behind, &uploads));
        }
    });
}

fn converse(
    client: TcpStream,
    front: SocketAddr,
    behind: SocketAddr,
    uploads: &Uploads,
) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut client = client;
    loop {
        let request = read(&mut reader)?;
        let named = request.headers.iter().find(|(name, _)| name == "authorization");
        if let Some((_, who)) = named {
            let mut all = AUTHORIZATIONS.lock().expect("no thread failed");
            all.entry(front).or_default().push(who.clone());
        }
        let answer = match parts(&request, behind, uploads) {
            Some(answer) => answer,
            None => forward(behind, &request)?,
        };
        client.write_all(&answer).ok()?;
    }
}

/// The next request on a connection.
pub(crate) fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let header = |wanted: &str| {
        headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
    };
    if header("expect").is_some() {
        reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let mut body = Vec::new();
    match header("content-length") {
        Some(length) => {
            body.resize(length.parse().ok()?, 0);
            reader.read_exact(&mut body).ok()?;
        }
        None if header("transfer-encoding").is_some() => loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        },
        None => {}
    }
    Some(Request { method, target, headers, body })
}

/// The request to the server behind, and its answer.
fn forward(behind: SocketAddr, request: &Request) -> Option<Vec<u8>> {
    let mut server = TcpStream::connect(behind).ok()?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        if !matches!(&**name, "connection" | "content-length" | "transfer-encoding" | "expect") {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", request.body.len()));
    server.write_all(head.as_bytes()).ok()?;
    server.write_all(&request.body).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    // The connection here goes on, and so the answer needs its length.
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut body = answer.split_off(end + 4);
    let mut lines = Vec::new();
    let (mut has_length, mut is_chunked) = (false, false);
    for line in head.split("\r\n") {
        let lower = line.to_lowercase();
        has_length |= lower.starts_with("content-length:");
        is_chunked |= lower.starts_with("transfer-encoding:");
        if !lower.starts_with("connection:") && !lower.starts_with("transfer-encoding:") {
            lines.push(line.to_owned());
        }
    }
    if is_chunked {
        body = dechunked(&body)?;
    }
    if !has_length {
        lines.push(format!("Content-Length: {}", body.len()));
    }
    let mut whole = lines.join("\r\n").into_bytes();
    whole.extend_from_slice(b"\r\n\r\n");
    whole.append(&mut body);
    Some(whole)
}

fn dechunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 4 + size..)?;
    }
}

/// The answer to a request of an upload in parts; none: it is another one.
fn parts(request: &Request, behind: SocketAddr, uploads: &Uploads) -> Option<Vec<u8>> {
    let (path, query) = request.target.split_once('?')?;
    let path = path.trim_start_matches('/');
    let (bucket, key) = path.split_once('/').filter(|(bucket, _)| *bucket != "storage")?;
    if bucket == "upload" {
        return None;
    }
    let value = |wanted: &str| {
        let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned())
    };
    let mut known = uploads.lock().expect("no thread failed");
    match (request.method.as_str(), value("uploadId"), value("partNumber")) {
        ("POST", None, _) if value("uploads").is_some() => {
            let id = format!("upload-{}", known.len());
            known.insert(id.clone(), (request.headers.clone(), Parts::new()));
            let text = format!(
                "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{key}</Key>\
                 <UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            );
            Some(answer("200 OK", "", &text))
        }
        ("PUT", Some(id), Some(number)) => {
            let (_, parts) = known.get_mut(&id)?;
            parts.insert(number.parse().ok()?, request.body.clone());
            Some(answer("200 OK", &format!("ETag: \"part-{number}\"\r\n"), ""))
        }
        ("POST", Some(id), None) => {
            let (headers, parts) = known.remove(&id)?;
            // Every part that is named, in its order.
            let text = String::from_utf8_lossy(&request.body).into_owned();
            let named: Vec<u32> = text
                .split("<PartNumber>")
                .skip(1)
                .map(|rest| rest.split('<').next().expect("text").trim().parse().expect("a number"))
                .collect();
            assert_eq!(named, parts.keys().copied().collect::<Vec<_>>(), "{text}");
            let least = 5 << 20;
            assert!(parts.values().rev().skip(1).all(|part| part.len() >= least), "a short part");
            let whole: Vec<u8> = parts.into_values().flatten().collect();
            store(behind, bucket, key, &headers, whole)?;
            let text = "<CompleteMultipartUploadResult><ETag>\"whole\"</ETag></CompleteMultipartUploadResult>";
            Some(answer("200 OK", "", text))
        }
        ("DELETE", Some(id), None) => {
            known.remove(&id);
            Some(answer("204 No Content", "", ""))
        }
        _ => None,
    }
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
        .into_bytes()
}

/// Stores an object in one request: its description as JSON, and its bytes.
fn store(
    behind: SocketAddr,
    bucket: &str,
    key: &str,
    headers: &[(String, String)],
    whole: Vec<u8>,
) -> Option<()> {
    let name = percent_encoding::percent_decode_str(key).decode_utf8().expect("text");
    let metadata: serde_json::Map<String, serde_json::Value> = headers
        .iter()
        .filter_map(|(name, value)| {
            Some((name.strip_prefix("x-goog-meta-")?.to_owned(), value.clone().into()))
        })
        .collect();
    let described = serde_json::json!({ "name": name, "metadata": metadata });
    let mut body = format!(
        "--edge\r\nContent-Type: application/json\r\n\r\n{described}\r\n--edge\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(&whole);
    body.extend_from_slice(b"\r\n--edge--\r\n");
    let request = Request {
        method: "POST".to_owned(),
        target: format!("/upload/storage/v1/b/{bucket}/o?uploadType=multipart"),
        headers: vec![
            ("host".to_owned(), behind.to_string()),
            ("content-type".to_owned(), "multipart/related; boundary=edge".to_owned()),
        ],
        body,
    };
    let answer = forward(behind, &request)?;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    Some(())
}
