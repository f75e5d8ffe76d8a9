//! Templates of StorageProviders.

use super::template::{Context, LIMIT, render};

fn context() -> Context {
    let parameters = [("bucket", "b"), ("endpoint", ""), ("mountOptions", "a b"), ("key", SECRET)];
    Context {
        parameters: parameters.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        secret: ("secret".to_owned(), "namespace".to_owned()),
        storage_class: "class".to_owned(),
    }
}

/// Errors do not tell it.
const SECRET: &str = "qzVx7Jm2";

/// Whatever it is, it renders to a bounded text, the same each time, or is refused without a secret.
pub(super) fn template(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let first = render(&text, &context());
    match &first {
        Ok(result) => assert!(result.len() <= LIMIT),
        Err(error) => assert!(!error.contains(SECRET) || text.contains(SECRET), "{error}"),
    }
    assert_eq!(first, render(&text, &context()));
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "{{- $p := .Parameters }}\n{{- $e := index $p \"endpoint\" }}{{ if not $e }}{{ $e = printf \"https://%s\" \"x\" }}{{ end }}endpoint: {{ $e | toJson }}",
        "{{- with index .Parameters \"mountOptions\" }}mountOptions: {{ . | splitList \" \" | toJson }}{{ end }}",
        "{{ range $i, $v := splitList \",\" \"a,b\" }}{{ $i }}{{ $v | upper | quote }}{{ end }}",
        "{{ define \"a\" }}{{ . }}{{ end }}{{ template \"a\" .Parameters.bucket }}",
        "{{ .Parameters.key | b64enc | trunc 3 | indent 2 }}{{ ternary \"x\" \"y\" (hasPrefix \"a\" \"ab\") }}",
        "{{ replace \"a\" \"bb\" .CSIDriverSecretRef.Name }}{{/* x */}}{{ eq \"0\" \"\" }}",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}
