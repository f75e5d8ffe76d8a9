//! The keys of a large directory cut into parts that are listed at the same time. Where to cut is
//! guessed from the first page: a bad guess costs requests, never a name, since the parts always cover
//! everything after that page.

/// What base64url and percent-encoding are written with, in the order of listings.
const BASE64URL: &[u8] = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz";
/// Of what one page is expected to take in, parts are made this much smaller, in percent: chance makes
/// some fuller than others, and a part that needs a second page waits for it.
const FILL: usize = 85;
/// Parts that the guess about plain names makes, at most: they are often empty.
const PLAIN_PARTS: usize = 64;

/// Where the keys after a full first page are cut, in order: a part is what lies after one cut (or after
/// the page) up to and with the next one; the last part goes on to the end of the directory. Nothing is
/// cut where the rest is likely to fit on one page.
///
/// `first` and `last` are the page's outermost keys and begin with `prefix`.
pub(super) fn cuts(prefix: &str, first: &str, last: &str, sealed: bool) -> Vec<String> {
    let (Some(first), Some(last)) = (first.strip_prefix(prefix), last.strip_prefix(prefix)) else {
        return Vec::new();
    };
    let cuts = if sealed { sealed_cuts(last) } else { plain_cuts(first, last) };
    cuts.into_iter().map(|cut| format!("{prefix}{cut}")).collect()
}

/// Sealed names are spread evenly: the page covers as many pairs of first characters as the next ones.
fn sealed_cuts(last: &str) -> Vec<String> {
    let digit = |at: usize| {
        let byte = last.as_bytes().get(at)?;
        BASE64URL.iter().position(|letter| letter == byte)
    };
    let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Vec::new() };
    let reached = high * 64 + low;
    let step = ((reached + 1) * FILL / 100).max(1);
    let pair = |cell: usize| {
        let letters = [BASE64URL[cell / 64], BASE64URL[cell % 64]];
        letters.map(char::from).iter().collect()
    };
    (reached..64 * 64).step_by(step).skip(1).map(pair).collect()
}

/// Plain names often have a beginning in common and digits or letters behind it: these are counted on.
fn plain_cuts(first: &str, last: &str) -> Vec<String> {
    let common = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    let (from, Some(&reached)) = (first.as_bytes().get(common), last.as_bytes().get(common)) else {
        return Vec::new();
    };
    let class = match reached {
        b'0'..=b'9' => b'0'..=b'9',
        b'A'..=b'Z' => b'A'..=b'Z',
        b'a'..=b'z' => b'a'..=b'z',
        _ => return Vec::new(),
    };
    let from = from.copied().filter(|from| class.contains(from)).unwrap_or(*class.start());
    let step = (usize::from(reached - from + 1) * FILL / 100).max(1);
    // The alphabet is ASCII, so that every byte is a boundary. What comes after the class is one part.
    let beginning = &last[..common];
    (reached..=*class.end() + 1)
        .step_by(step)
        .skip(1)
        .take(PLAIN_PARTS)
        .map(|letter| format!("{beginning}{}", char::from(letter)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_names_are_cut_into_parts_of_nearly_a_page() {
        // A tenth of all keys was on the first page: nine more pages, with some room each.
        let cuts = cuts("t/x/", "t/x/--aa", "t/x/5Waa", true);
        assert!((9..=12).contains(&cuts.len()), "{cuts:?}");
        assert!(cuts.is_sorted() && cuts.iter().all(|cut| cut.as_str() > "t/x/5W"), "{cuts:?}");
        // Nearly everything was on it: one more request, as without cutting.
        assert!(super::cuts("t/x/", "t/x/--aa", "t/x/zxaa", true).is_empty());
        assert!(super::cuts("t/x/", "t/x/--aa", "t/x/%", true).is_empty());
    }

    #[test]
    fn plain_names_are_cut_behind_what_they_have_in_common() {
        let parts = cuts("t/x/", "t/x/f0", "t/x/f1899", false);
        let expected: Vec<String> = ["f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9", "f:"]
            .map(|cut| format!("t/x/{cut}"))
            .into();
        assert_eq!(parts, expected);
        assert!(cuts("t/x/", "t/x/a", "t/x/a", false).is_empty());
        assert!(cuts("t/x/", "t/x/a", "t/x/a%20", false).is_empty());
        assert_eq!(cuts("t/x/", "t/x/aardvark", "t/x/sable", false).len(), 0);
    }
}
