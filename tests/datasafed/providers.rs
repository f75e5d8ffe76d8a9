//! Providers that cannot run here: what both programs send to each of them, recorded by a proxy that stands for all of
//! their servers. Where the bucket's name goes, how listings are asked for, and for which region requests are signed
//! has to be the same.

use crate::google_parts::{Request, read};
use crate::programs::{BOTH, Program};
use md5::{Digest, Md5};
use percent_encoding::NON_ALPHANUMERIC;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Objects by host and path, and what was asked.
#[derive(Default)]
struct Seen {
    objects: BTreeMap<String, Vec<u8>>,
    /// The marks of those that came in parts.
    etags: BTreeMap<String, String>,
    /// Of uploads under way, by number.
    parts: BTreeMap<u32, Vec<u8>>,
    asked: BTreeSet<String>,
}

/// A proxy that answers for every server. It lasts as long as the process.
fn proxy() -> (String, Arc<Mutex<Seen>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let seen = Arc::new(Mutex::new(Seen::default()));
    let state = seen.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let state = state.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(client.try_clone().expect("a second handle"));
                while let Some(request) = read(&mut reader) {
                    let answer = answer(&request, &mut state.lock().expect("no thread failed"));
                    if client.write_all(&answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, seen)
}

fn answer(request: &Request, seen: &mut Seen) -> Vec<u8> {
    let url = url::Url::parse(&request.target).expect("a proxy is asked for whole addresses");
    let host = url.host_str().expect("a host").to_owned();
    let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    // Spelled as it may be: it is the same object.
    let path = percent_encoding::percent_decode_str(url.path()).decode_utf8().expect("text");
    let place = format!("{host}{}", path.trim_end_matches('/'));
    note(request, &place, &query, seen);
    let reply = |status: &str, headers: &str, body: &[u8]| {
        let mut whole =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len())
                .into_bytes();
        if request.method != "HEAD" {
            whole.extend_from_slice(body);
        }
        whole
    };
    let of_parts = seen.etags.get(&place).cloned();
    let found = |body: &[u8]| {
        let etag = of_parts.unwrap_or_else(|| data_encoding::HEXLOWER.encode(&Md5::digest(body)));
        let headers =
            format!("ETag: \"{etag}\"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n");
        let range = request.headers.iter().find(|(name, _)| name == "range");
        let range = range.and_then(|(_, range)| range.strip_prefix("bytes=")?.split_once('-'));
        let Some((first, last)) = range else { return reply("200 OK", &headers, body) };
        let first: usize = first.parse().expect("a number");
        let last = last.parse().unwrap_or(body.len() - 1).min(body.len() - 1);
        let told = format!("{headers}Content-Range: bytes {first}-{last}/{}\r\n", body.len());
        reply("206 Partial Content", &told, &body[first..=last])
    };
    match request.method.as_str() {
        "POST" if query.contains_key("uploads") => {
            seen.parts.clear();
            let text = "<InitiateMultipartUploadResult><UploadId>upload</UploadId></InitiateMultipartUploadResult>";
            reply("200 OK", "", text.as_bytes())
        }
        "PUT" if query.contains_key("uploadId") => {
            let number = query["partNumber"].parse().expect("a number");
            let etag = data_encoding::HEXLOWER.encode(&Md5::digest(&request.body));
            seen.parts.insert(number, request.body.clone());
            reply("200 OK", &format!("ETag: \"{etag}\"\r\n"), b"")
        }
        "POST" if query.contains_key("uploadId") => {
            let parts = std::mem::take(&mut seen.parts);
            let sums: Vec<u8> = parts.values().flat_map(Md5::digest).collect();
            let etag = data_encoding::HEXLOWER.encode(&Md5::digest(sums));
            let etag = format!("{etag}-{}", parts.len());
            let text = format!(
                "<CompleteMultipartUploadResult><ETag>\"{etag}\"</ETag></CompleteMultipartUploadResult>"
            );
            seen.etags.insert(place.clone(), etag);
            seen.objects.insert(place, parts.into_values().flatten().collect());
            reply("200 OK", "", text.as_bytes())
        }
        "PUT" => {
            let etag = data_encoding::HEXLOWER.encode(&Md5::digest(&request.body));
            seen.objects.insert(place, request.body.clone());
            reply("200 OK", &format!("ETag: \"{etag}\"\r\n"), b"")
        }
        "POST" if query.contains_key("delete") => {
            for key in keys_in(&request.body) {
                seen.objects.remove(&format!("{place}/{key}"));
            }
            reply("200 OK", "", b"<DeleteResult></DeleteResult>")
        }
        "DELETE" => {
            seen.objects.remove(&place);
            reply("204 No Content", "", b"")
        }
        _ if query.contains_key("versioning") => {
            reply("200 OK", "", b"<VersioningConfiguration></VersioningConfiguration>")
        }
        "GET" if query.contains_key("prefix") || query.contains_key("delimiter") => {
            let prefix = query.get("prefix").cloned().unwrap_or_default();
            let after = ["continuation-token", "marker", "start-after"];
            let after = after.iter().find_map(|name| query.get(*name)).cloned().unwrap_or_default();
            // One name a page. The bucket is in the host or the path: what follows it is the key.
            let keys = seen.objects.iter().filter_map(|(name, body)| {
                let key = name.strip_prefix(&place)?.trim_start_matches('/');
                (key.starts_with(&prefix) && key > &*after).then_some((key, body))
            });
            let mut keys = keys.peekable();
            let mut text = "<ListBucketResult>".to_owned();
            if let Some((key, body)) = keys.next() {
                let next = match keys.peek() {
                    Some(_) if query.contains_key("list-type") => {
                        format!("<NextContinuationToken>{key}</NextContinuationToken>")
                    }
                    Some(_) if query.contains_key("delimiter") => {
                        format!("<NextMarker>{key}</NextMarker>")
                    }
                    _ => String::new(),
                };
                let _ = write!(text, "<IsTruncated>{}</IsTruncated>{next}", keys.peek().is_some());
                {
                    let key = match query.contains_key("encoding-type") {
                        true => {
                            percent_encoding::utf8_percent_encode(key, NON_ALPHANUMERIC).to_string()
                        }
                        false => key.to_owned(),
                    };
                    let _ = write!(
                        text,
                        "<Contents><Key>{key}</Key><Size>{}</Size><ETag>\"x\"</ETag>\
                         <LastModified>2015-10-21T07:28:00.000Z</LastModified></Contents>",
                        body.len()
                    );
                }
            }
            text.push_str("</ListBucketResult>");
            reply("200 OK", "", text.as_bytes())
        }
        _ => match seen.objects.get(&place) {
            Some(body) => found(body),
            None => reply("404 Not Found", "", b"<Error><Code>NoSuchKey</Code></Error>"),
        },
    }
}

/// The keys that a request names for deletion.
fn keys_in(body: &[u8]) -> impl Iterator<Item = &str> {
    let body = std::str::from_utf8(body).expect("text");
    body.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next())
}

/// Notes what the two programs have to have in common. That one of them asks before and after is its own affair.
fn note(request: &Request, place: &str, query: &BTreeMap<String, String>, seen: &mut Seen) {
    if request.method == "HEAD" || query.contains_key("versioning") {
        return;
    }
    // An upload that the server did not promise to check by CRC-32C is begun again without it.
    if request.method == "DELETE" && query.contains_key("uploadId") {
        return;
    }
    // How long parts are, and how many, is each one's own; both number them from 1.
    let keys =
        ["list-type", "encoding-type", "delimiter", "prefix", "uploads", "uploadId", "marker"];
    let keys = keys.iter().filter_map(|key| Some((key, query.get(*key)?)));
    // An empty delimiter is none.
    let keys = keys.filter(|(key, value)| **key != "delimiter" || !value.is_empty());
    let keys = keys.map(|(key, value)| format!("{key}={value}"));
    let keys: Vec<String> = keys.collect();
    let header = |wanted: &str| {
        let found = request.headers.iter().find(|(name, _)| name == wanted);
        found.map_or("", |(_, value)| value)
    };
    // Credential=KEY/DATE/REGION/SERVICE/aws4_request
    let scope = header("authorization").split("Credential=").nth(1).unwrap_or_default();
    let scope = scope.split(',').next().unwrap_or_default();
    let scope: Vec<&str> = scope.split('/').skip(2).collect();
    if query.contains_key("delete") {
        // One request for many, where the provider knows it: the original sends one for each.
        let one = |key: &str| format!("DELETE {place}/{key}  {}", scope.join("/"));
        seen.asked.extend(keys_in(&request.body).map(one));
        assert!(!header("content-md5").is_empty(), "{place}: nothing to check the body by");
        return;
    }
    let told = format!("{} {place} {} {}", request.method, keys.join("&"), scope.join("/"));
    // Neither is every server's to understand.
    assert!(header("content-encoding").is_empty(), "{told}: aws-chunked");
    assert!(header("x-amz-trailer").is_empty(), "{told}: a checksum at the end");
    if request.method == "PUT" {
        assert!(!header("content-md5").is_empty(), "{told}: nothing to check the body by");
    }
    seen.asked.insert(told);
}

fn run(program: Program, folder: &Path, conf: &str) -> BTreeSet<String> {
    let (proxy, seen) = proxy();
    let path = folder.join("datasafed.conf");
    std::fs::write(&path, conf).expect("written");
    let call = |arguments: &[&str], input: Option<&[u8]>| {
        let given = ["-c", path.to_str().expect("text")];
        let call = program.call(given.iter().chain(arguments));
        let outcome = call.envs([("HTTP_PROXY", &proxy)]).run_with(input);
        assert_eq!(outcome.code, Some(0), "{program:?} {arguments:?}: {}\n{conf}", outcome.stderr);
        outcome.stdout
    };
    call(&["push", "-", "dir/a b+c"], Some(b"content"));
    assert_eq!(call(&["pull", "dir/a b+c", "-"], None), b"content");
    assert_eq!(call(&["list", "dir/"], None), b"dir/a b+c\n", "{program:?}");
    call(&["rm", "dir/a b+c"], None);
    // Files that leave in parts, and listings of several pages.
    let long = crate::support::random_bytes(3, 11_000_000);
    for name in ["more/1", "more/2", "more/deep/3"] {
        call(&["push", "-", name], Some(if name == "more/2" { &long } else { b"short" }));
    }
    assert!(call(&["pull", "more/2", "-"], None) == long, "{program:?}");
    let listed = call(&["list", "-r", "-f", "more/"], None);
    let listed = String::from_utf8(listed).expect("text");
    let listed: BTreeSet<&str> = listed.lines().collect();
    assert_eq!(listed, BTreeSet::from(["more/1", "more/2", "more/deep/3"]), "{program:?}");
    call(&["stat", "more/2"], None);
    call(&["rm", "-r", "more"], None);
    assert!(seen.lock().expect("no thread failed").objects.is_empty(), "{program:?}");
    std::mem::take(&mut seen.lock().expect("no thread failed").asked)
}

#[test]
fn every_provider_is_asked_as_the_original_asks_it() {
    let folder = tempfile::tempdir().expect("a folder");
    // As the StorageProviders' templates render them.
    let providers = [
        ("AWS", "region = eu-west-1\nendpoint = http://s3.eu-west-1.amazonaws.com"),
        ("Alibaba", "endpoint = http://oss-cn-hangzhou.aliyuncs.com\nuse_already_exists = false"),
        ("TencentCOS", "endpoint = http://cos.ap-nanjing.myqcloud.com"),
        ("HuaweiOBS", "region = cn-north-4\nendpoint = http://obs.cn-north-4.myhuaweicloud.com"),
        ("GCS", "region = auto\nendpoint = http://storage.googleapis.com"),
        ("Minio", "region = \nendpoint = http://minio.example.org:9000"),
        ("Other", "region = here\nendpoint = http://s3.example.org\nforce_path_style = false"),
        ("Other", "region = \nendpoint = http://s3.example.org\nforce_path_style = true"),
        ("Ceph", "region = \nendpoint = http://ceph.example.org\nforce_path_style = true"),
        ("Wasabi", "region = us-east-2\nendpoint = http://s3.us-east-2.wasabisys.com"),
    ];
    for (provider, more) in providers {
        let conf = format!(
            "[storage]\ntype = s3\nprovider = {provider}\nenv_auth = false\naccess_key_id = key\n\
             secret_access_key = secret\n{more}\nroot = bucket/in\nno_check_certificate = false\n\
             no_check_bucket = true\nchunk_size = 5Mi\n"
        );
        let [real, ours] = BOTH.map(|program| run(program, folder.path(), &conf));
        let more: Vec<_> = ours.difference(&real).collect();
        let fewer: Vec<_> = real.difference(&ours).collect();
        assert!(ours == real, "{conf}\nonly ours: {more:#?}\nonly the original's: {fewer:#?}");
    }
}
