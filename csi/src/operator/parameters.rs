//! The parameters of a repository: the schema's defaults, then the configuration, then the keys of the Secret; and
//! KubeBlocks' digest of them, by which a change is noticed.

use super::crd::StorageProviderSpec;
use md5::{Digest, Md5};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Names and values. Some are secrets: they have no Debug and are not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// Puts them together.
    ///
    /// # Errors
    /// Which parameter is no text, number or truth value.
    pub fn merge(
        provider: &StorageProviderSpec,
        config: &BTreeMap<String, Value>,
        credential: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Self, String> {
        let mut merged = BTreeMap::new();
        for (name, property) in properties(provider) {
            if let Some(default) = property.get("default").and_then(text) {
                merged.insert(name.clone(), default);
            }
        }
        for (name, value) in config {
            let value = text(value).ok_or_else(|| {
                format!("config.{name} is neither a text nor a number nor true or false")
            })?;
            merged.insert(name.clone(), value);
        }
        let declared = |name: &str| is_declared(provider, name);
        for (name, value) in credential {
            match String::from_utf8(value.clone()) {
                Ok(value) => drop(merged.insert(name.clone(), value)),
                Err(_) if declared(name) => {
                    return Err(format!("the credential's key {name} is no text in UTF-8"));
                }
                // Something else that lies beside the keys, such as a passphrase of random bytes.
                Err(_) => {}
            }
        }
        Ok(Self(merged))
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Sets one.
    pub fn set(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), value);
    }

    /// The names of required parameters that are missing. Users are told to leave a region empty that their store
    /// does not like; what belongs into the Secret may not be empty.
    pub fn missing(&self, provider: &StorageProviderSpec) -> Vec<String> {
        let required = schema(provider).and_then(|schema| schema.get("required"));
        let names = required.and_then(Value::as_array).into_iter().flatten();
        let credentials =
            provider.parameters_schema.as_ref().map(|schema| &schema.credential_fields);
        let secret =
            |name: &str| credentials.is_some_and(|fields| fields.iter().any(|field| field == name));
        names
            .filter_map(Value::as_str)
            .filter(|name| match self.get(name) {
                None => true,
                Some(value) => value.is_empty() && secret(name),
            })
            .map(str::to_owned)
            .collect()
    }

    /// The names of those that the provider does not declare, if it declares any: likely misspelt.
    pub fn unknown(&self, provider: &StorageProviderSpec) -> Vec<String> {
        let known: Vec<&String> = properties(provider).map(|(name, _)| name).collect();
        let unknown = |name: &&String| !known.is_empty() && !known.contains(name);
        self.0.keys().filter(unknown).cloned().collect()
    }

    /// As templates see them: a parameter that the provider declares and nobody gave is an empty text. To Go it would
    /// be absent, and `printf "%s"` would write `%!s(<nil>)` into the options of a mount.
    pub fn for_templates(&self, provider: &StorageProviderSpec) -> BTreeMap<String, String> {
        let declared = properties(provider).map(|(name, _)| (name.clone(), String::new()));
        let mut all: BTreeMap<String, String> = declared.collect();
        all.extend(self.0.clone());
        all
    }

    /// KubeBlocks' digest: of all names and values in order, then of the four templates.
    pub fn digest(&self, provider: &StorageProviderSpec) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            // Writing to a text does not fail.
            let _ = write!(text, "{name}={value};");
        }
        for template in [
            &provider.storage_class_template,
            &provider.persistent_volume_claim_template,
            &provider.csi_driver_secret_template,
            &provider.datasafed_config_template,
        ] {
            text.push_str(template.as_deref().unwrap_or_default());
        }
        data_encoding::HEXLOWER.encode(&Md5::digest(text))
    }
}

fn schema(provider: &StorageProviderSpec) -> Option<&Value> {
    provider.parameters_schema.as_ref()?.open_api_v3_schema.as_ref()
}

fn properties(provider: &StorageProviderSpec) -> impl Iterator<Item = (&String, &Value)> {
    let properties = schema(provider).and_then(|schema| schema.get("properties"));
    properties.and_then(Value::as_object).into_iter().flatten()
}

/// Whether a provider declares a parameter.
pub fn is_declared(provider: &StorageProviderSpec, name: &str) -> bool {
    properties(provider).any(|(known, _)| known == name)
}

/// A scalar as a text. KubeBlocks has texts only.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::crd::ParametersSchema;
    use super::*;
    use serde_json::json;

    fn provider() -> StorageProviderSpec {
        StorageProviderSpec {
            storage_class_template: Some("sc".to_owned()),
            datasafed_config_template: Some("conf".to_owned()),
            parameters_schema: Some(ParametersSchema {
                open_api_v3_schema: Some(json!({
                    "properties": {"limit": {"default": 512}, "insecure": {"default": false}, "bucket": {},
                                   "key": {}, "mountOptions": {}},
                    "required": ["bucket", "key"],
                })),
                credential_fields: vec!["key".to_owned()],
            }),
            ..StorageProviderSpec::default()
        }
    }

    fn merged(config: Value, credential: &[(&str, &str)]) -> Result<Parameters, String> {
        let config = serde_json::from_value(config).expect("a map");
        let credential =
            credential.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()));
        Parameters::merge(&provider(), &config, &credential.collect())
    }

    #[test]
    fn the_secret_wins_over_the_configuration_and_that_over_defaults() {
        let parameters =
            merged(json!({"limit": "1", "key": "weak", "insecure": true}), &[("key", "strong")]);
        let parameters = parameters.expect("fine");
        assert_eq!(parameters.get("limit"), Some("1"));
        assert_eq!(parameters.get("key"), Some("strong"));
        assert_eq!(parameters.get("insecure"), Some("true"));
        assert_eq!(parameters.missing(&provider()), ["bucket"]);
        let templates = parameters.for_templates(&provider());
        assert_eq!(templates.get("mountOptions").map(String::as_str), Some(""));
    }

    #[test]
    fn the_digest_is_that_of_kubeblocks() {
        let parameters = merged(json!({"bucket": "b"}), &[("key", "k")]).expect("fine");
        // md5 of the text in the contract's order.
        let text = "bucket=b;insecure=false;key=k;limit=512;scconf";
        let expected = data_encoding::HEXLOWER.encode(&Md5::digest(text));
        assert_eq!(parameters.digest(&provider()), expected);
    }

    #[test]
    fn what_is_no_scalar_is_named() {
        let error = merged(json!({"bucket": ["a"]}), &[]).err().expect("no scalar");
        assert!(error.starts_with("config.bucket is neither"), "{error}");
        let known = merged(json!({"buket": "x"}), &[]).expect("fine").unknown(&provider());
        assert_eq!(known, ["buket"]);
    }
}
