//! Storages that do not speak S3: Azure's blobs, Google's own protocol, FTP.

use super::options::{AZURE, FTP, GOOGLE};
use super::storage::{Options, Place, number, split_root, tls, with_scheme};
use super::{DatasafedError, variable};
use crate::config::obscure::reveal;
use crate::store::{
    AzureConfig, AzureCredentials, FtpConfig, FtpSecurity, GoogleConfig, GoogleCredentials,
};
use zeroize::Zeroizing;

/// The port of FTP, and the one where everything is TLS from the first byte on.
const FTP_PORTS: (u16, u16) = (21, 990);

/// A container of Azure.
pub(super) fn azure(options: &Options<'_>) -> Result<Place, DatasafedError> {
    options.check(AZURE)?;
    let (container, prefix) = split_root(options, "the container")?;
    let account = options.text("account");
    let key = options.text("key").map(Zeroizing::new);
    let signed = options.text("sas_url").map(Zeroizing::new);
    let (endpoint, credentials) = match (account, key, signed) {
        (_, _, Some(signed)) => {
            let (endpoint, signature) = signature(&signed, &container)?;
            (Some(endpoint), AzureCredentials::Signature(signature))
        }
        (Some(account), Some(key), None) => {
            let endpoint = format!("https://{account}.blob.core.windows.net");
            (Some(endpoint), AzureCredentials::Key { account, key })
        }
        (Some(account), None, None) => {
            let endpoint = format!("https://{account}.blob.core.windows.net");
            (Some(endpoint), AzureCredentials::Anonymous)
        }
        (None, Some(_), None) => {
            return Err(DatasafedError::new("storage.account is empty: it belongs to storage.key"));
        }
        (None, None, None) => (None, AzureCredentials::Anonymous),
    };
    let given = options.text("endpoint").map(|endpoint| bare(&endpoint)).transpose()?;
    let endpoint = given.or(endpoint).ok_or_else(|| {
        DatasafedError::new(
            "storage.account is empty: write account and key, sas_url, or the endpoint of a public container",
        )
    })?;
    let config = AzureConfig { container, endpoint, credentials, tls: tls(options)? };
    Ok(Place::Azure { config: Box::new(config), prefix })
}

/// An endpoint, which messages may repeat: without anything that may be a secret.
fn bare(endpoint: &str) -> Result<String, DatasafedError> {
    let endpoint = with_scheme(endpoint)?;
    let url = url::Url::parse(&endpoint);
    let is_bare = url.is_ok_and(|url| {
        url.username().is_empty() && url.password().is_none() && url.query().is_none()
    });
    is_bare.then_some(endpoint).ok_or_else(|| {
        DatasafedError::new(
            "storage.endpoint holds a user, a password or a signature: write https://HOST[:PORT][/PATH], and who asks \
             in the keys for that (key, sas_url)",
        )
    })
}

/// Endpoint and signature of a signed URL, which may name the container.
fn signature(signed: &str, container: &str) -> Result<(String, Zeroizing<String>), DatasafedError> {
    // Not repeated: it holds a secret.
    let unusable = || {
        DatasafedError::new(
            "storage.sas_url is no signed URL: copy it as Azure shows it (https://ACCOUNT.blob.core.windows.net/...?...)",
        )
    };
    let mut url = url::Url::parse(signed).map_err(|_| unusable())?;
    let query = url.query().filter(|query| query.contains("sig=")).ok_or_else(unusable)?;
    let signature = Zeroizing::new(query.to_owned());
    let has_user = !url.username().is_empty() || url.password().is_some();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || has_user {
        return Err(unusable());
    }
    url.set_query(None);
    let endpoint = url.as_str().trim_end_matches('/');
    let endpoint = endpoint.strip_suffix(&format!("/{container}")).unwrap_or(endpoint);
    Ok((endpoint.to_owned(), signature))
}

/// A bucket of Google, by its own protocol.
pub(super) fn google(options: &Options<'_>) -> Result<Place, DatasafedError> {
    options.check(GOOGLE)?;
    let (bucket, prefix) = split_root(options, "the bucket")?;
    let given = options.text("service_account_credentials").map(Zeroizing::new);
    let file = options.text("service_account_file");
    let found = options.flag("env_auth")?.unwrap_or(false);
    // Where Google's own tools look first.
    let around = Some(variable("GOOGLE_APPLICATION_CREDENTIALS")).filter(|path| !path.is_empty());
    let around = around.filter(|_| found).map(|path| path.to_string_lossy().into_owned());
    let file = file.or(around);
    let credentials = match (given, file) {
        (Some(json), _) => service_account(json, "storage.service_account_credentials")?,
        (None, Some(file)) => {
            let path = file.replacen('~', &variable("HOME").to_string_lossy(), 1);
            let path = if file.starts_with("~/") { path } else { file };
            let json = std::fs::read_to_string(&path).map(Zeroizing::new).map_err(|error| {
                DatasafedError(format!("storage.service_account_file {path}: {error}"))
            })?;
            service_account(json, &path)?
        }
        (None, None) if options.flag("anonymous")?.unwrap_or(false) => GoogleCredentials::Anonymous,
        (None, None) if found => GoogleCredentials::Found,
        (None, None) => {
            return Err(DatasafedError::new(
                "no credentials for Google: write service_account_file or service_account_credentials, \
                 env_auth = true for those around, or anonymous = true for none",
            ));
        }
    };
    let endpoint = options.text("endpoint").map(|endpoint| bare(&endpoint)).transpose()?;
    // rclone's endpoints end in the path of one of two protocols.
    let endpoint = endpoint.map(|endpoint| {
        let endpoint = endpoint.trim_end_matches('/');
        endpoint.strip_suffix("/storage/v1").unwrap_or(endpoint).to_owned()
    });
    let config = GoogleConfig { bucket, endpoint, credentials, tls: tls(options)? };
    Ok(Place::Google { config: Box::new(config), prefix })
}

/// Whom a JSON file of Google's describes. Its text is never repeated.
fn service_account(
    json: Zeroizing<String>,
    place: &str,
) -> Result<GoogleCredentials, DatasafedError> {
    #[derive(serde::Deserialize)]
    struct Account {
        #[serde(rename = "type")]
        kind: String,
        private_key: Option<serde::de::IgnoredAny>,
    }
    let account: Account = serde_json::from_str(&json).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        DatasafedError(format!(
            "{place} is not the JSON file of a service account (line {line}, column {column}): copy it as Google \
             gave it"
        ))
    })?;
    match (account.kind == "service_account", account.private_key) {
        (false, _) => Ok(GoogleCredentials::Described(json)),
        (true, Some(_)) => Ok(GoogleCredentials::ServiceAccount(json)),
        (true, None) => Err(DatasafedError(format!(
            "{place} is a service account without its private_key: make a new key for it"
        ))),
    }
}

/// A directory of a server of FTP.
pub(super) fn ftp(options: &Options<'_>) -> Result<Place, DatasafedError> {
    options.check(FTP)?;
    let host = options
        .text("host")
        .ok_or_else(|| DatasafedError::new("storage.host is empty: it names the server of FTP"))?;
    let flag = |name| options.flag(name).map(Option::unwrap_or_default);
    let security = match (flag("tls")?, flag("explicit_tls")?) {
        (false, false) => FtpSecurity::None,
        (true, false) => FtpSecurity::Implicit,
        (false, true) => FtpSecurity::Explicit,
        (true, true) => {
            return Err(DatasafedError::new(
                "storage.tls and storage.explicit_tls are both true: keep the one that the server speaks",
            ));
        }
    };
    let usual = if security == FtpSecurity::Implicit { FTP_PORTS.1 } else { FTP_PORTS.0 };
    let port = match number(options, "port")? {
        None => usual,
        Some(port) => u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| {
            DatasafedError(format!("storage.port = {port}: write a number from 1 to 65535"))
        })?,
    };
    let config = FtpConfig {
        host,
        port,
        // As the original: whoever runs it.
        user: options
            .text("user")
            .unwrap_or_else(|| variable("USER").to_string_lossy().into_owned()),
        password: password(options)?,
        security,
        tls: tls(options)?,
        machine_listings: !flag("disable_mlsd")?,
        sessions: number(options, "concurrency")?.unwrap_or(0),
    };
    let root = options.get("root").unwrap_or_default();
    let is_absolute = root.starts_with('/');
    let parts = root.split('/').filter(|part| !part.is_empty() && *part != ".");
    let root = parts.collect::<Vec<_>>().join("/");
    let root = if is_absolute { format!("/{root}") } else { root };
    Ok(Place::Ftp { config: Box::new(config), root })
}

/// The password, which the file holds obscured.
fn password(options: &Options<'_>) -> Result<Zeroizing<String>, DatasafedError> {
    if let Some(plain) = options.plain("pass") {
        return Ok(Zeroizing::new(plain.to_owned()));
    }
    let Some(obscured) = options.text("pass") else { return Ok(Zeroizing::default()) };
    reveal(&obscured).map(Zeroizing::new).ok_or_else(|| {
        DatasafedError::new(
            "storage.pass is not obscured: write pass.need_obscure = PASSWORD, or obscure it as rclone does",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_urls_give_endpoint_and_signature() {
        let read = |url: &str| {
            signature(url, "box").map(|(endpoint, query)| (endpoint, query.to_string()))
        };
        let of = |endpoint: &str| (endpoint.to_owned(), "sv=1&sig=x".to_owned());
        let account = "https://me.blob.core.windows.net";
        for url in ["", "/", "/box"].map(|path| format!("{account}{path}?sv=1&sig=x")) {
            assert_eq!(read(&url).ok(), Some(of(account)), "{url}");
        }
        let emulated = "http://127.0.0.1:10000/devstoreaccount1";
        assert_eq!(read(&format!("{emulated}/box?sv=1&sig=x")).ok(), Some(of(emulated)));
        for useless in ["", "sig=x", "https://me", "https://me/?a=b", "ftp://me/?sig=x"] {
            assert!(read(useless).is_err(), "{useless}");
        }
    }

    #[test]
    fn what_is_no_service_account_is_not_repeated() {
        for json in ["", "secret", "{\"type\": \"service_account\"}", "[1]"] {
            let account = service_account(json.to_owned().into(), "here");
            let error = account.map(|_| ()).expect_err("no account").to_string();
            assert!(error.starts_with("here ") && !error.contains("secret"), "{error}");
        }
        let json = "{\"type\": \"service_account\", \"private_key\": \"x\"}";
        let account = service_account(json.to_owned().into(), "here");
        assert!(matches!(account, Ok(GoogleCredentials::ServiceAccount(_))));
        let user = "{\"type\": \"authorized_user\"}".to_owned();
        let user = service_account(user.into(), "here");
        assert!(matches!(user, Ok(GoogleCredentials::Described(_))));
    }
}
