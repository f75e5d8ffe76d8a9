//! Templates of StorageProviders: Go's, with the functions of sprig that providers use. What is rendered has a
//! bounded length and takes a bounded number of steps; a template that needs a function that is not here is an error
//! which says so. This file knows nothing of the rest of the operator, so that it is fuzzed without it.

use gotmpl::{Template, TemplateError, Value};
use std::collections::BTreeMap;
use std::fmt;

/// No template and no result is longer.
pub const LIMIT: usize = 64 * 1024;
/// No `printf` has more verbs: each may be padded to 64 KiB.
const VERBS: usize = 24;
/// All loops of one template together.
const STEPS: u64 = 10_000;

/// What a template is rendered with.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// `.Parameters`
    pub parameters: BTreeMap<String, String>,
    /// `.CSIDriverSecretRef`: name and namespace.
    pub secret: (String, String),
    /// `.GeneratedStorageClassName`
    pub storage_class: String,
}

impl Context {
    fn value(&self) -> Value {
        let text = |text: &str| Value::String(text.into());
        let map = |entries: Vec<(&str, Value)>| {
            let entries = entries.into_iter().map(|(key, value)| (key.into(), value));
            Value::Map(std::sync::Arc::new(entries.collect()))
        };
        let parameters = self.parameters.iter().map(|(key, value)| (key.as_str(), text(value)));
        map(vec![
            ("Parameters", map(parameters.collect())),
            (
                "CSIDriverSecretRef",
                map(vec![("Name", text(&self.secret.0)), ("Namespace", text(&self.secret.1))]),
            ),
            ("GeneratedStorageClassName", text(&self.storage_class)),
        ])
    }
}

/// Renders a template.
///
/// # Errors
/// What is wrong with it; never a parameter's value.
pub fn render(template: &str, context: &Context) -> Result<String, String> {
    if template.len() > LIMIT {
        return Err(format!("the template is longer than {} KiB", LIMIT / 1024));
    }
    let parsed = functions(Template::new("template").max_range_iters(STEPS));
    let parsed = parsed.parse(template).map_err(|error| told(&error))?;
    let mut bounded = Bounded(String::new());
    match parsed.execute_fmt(&mut bounded, &context.value()) {
        Ok(()) => Ok(bounded.0),
        Err(_) if bounded.0.len() >= LIMIT => {
            Err(format!("the result is longer than {} KiB", LIMIT / 1024))
        }
        Err(error) => Err(told(&error)),
    }
}

/// A text that takes no more than [`LIMIT`] bytes.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LIMIT - self.0.len();
        if text.len() > room {
            let cut = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            self.0.push_str(&text[..cut]);
            // Full, also where a character would have been cut.
            while self.0.len() < LIMIT {
                self.0.push(' ');
            }
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// Errors of functions may repeat their arguments, which may be secrets: only those of ours and of the parser are
/// told in full.
fn told(error: &TemplateError) -> String {
    match error {
        TemplateError::UndefinedTemplate(name) => format!("it calls template {name:?}, which it does not define"),
        TemplateError::UndefinedVariable(name) => format!("variable {name:?} is not declared"),
        TemplateError::UndefinedFunction(name) => format!(
            "function {name:?} is not known here; besides Go's own there are {}",
            SPRIG.join(", ")
        ),
        TemplateError::Parse { .. } | TemplateError::Lex { .. } => {
            error.to_string().replace('\n', " ")
        }
        TemplateError::Exec(text) if text.starts_with(OURS) => text.clone(),
        _ => "it cannot be executed with these parameters: a function got arguments of a kind or number that it \
              does not take, or it loops or nests too far"
            .to_owned(),
    }
}

/// Begins our own errors.
const OURS: &str = "function ";

/// Sprig's functions that providers use, and their kin.
const SPRIG: &[&str] = &[
    "b64dec",
    "b64enc",
    "coalesce",
    "contains",
    "default",
    "empty",
    "hasPrefix",
    "hasSuffix",
    "indent",
    "join",
    "lower",
    "nindent",
    "quote",
    "replace",
    "splitList",
    "squote",
    "ternary",
    "toJson",
    "toString",
    "trim",
    "trimPrefix",
    "trimSuffix",
    "trunc",
    "upper",
];

/// The arguments of a call, with Go's word for a value that is not there.
struct Arguments<'a>(&'static str, &'a [Value]);

impl Arguments<'_> {
    fn exactly(&self, count: usize) -> Result<(), TemplateError> {
        if self.1.len() == count {
            return Ok(());
        }
        Err(self.error(&format!("takes {count} arguments, not {}", self.1.len())))
    }

    fn error(&self, what: &str) -> TemplateError {
        TemplateError::Exec(format!("{OURS}{} {what}", self.0))
    }

    fn text(&self, at: usize) -> Result<String, TemplateError> {
        match self.1.get(at) {
            Some(Value::String(text)) => Ok(text.to_string()),
            Some(Value::Nil) | None => Ok(String::new()),
            Some(value @ (Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_))) => {
                Ok(value.to_string())
            }
            Some(_) => Err(self.error("takes texts here")),
        }
    }

    fn number(&self, at: usize) -> Result<usize, TemplateError> {
        let number = self.1.get(at).and_then(Value::as_int);
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.filter(|number| *number <= LIMIT).ok_or_else(|| self.error("takes a number here"))
    }
}

fn functions(mut template: Template) -> Template {
    // Go's index of a map of texts gives an empty text where there is none, gotmpl's gives nil.
    template = template.func("index", |given| {
        let arguments = Arguments("index", given);
        let (first, keys) = given.split_first().ok_or_else(|| arguments.error("takes a map"))?;
        let mut value = first.clone();
        for key in keys {
            value = match value.index(key)? {
                Value::Nil if matches!(value, Value::Map(_)) => Value::String("".into()),
                found => found,
            };
        }
        Ok(value)
    });
    for name in TEXTS {
        template = template.func(name, move |given| go(name, &Arguments(name, given)));
    }
    for name in SPRIG {
        template = template.func(name, move |given| {
            let arguments = Arguments(name, given);
            let result = sprig(name, &arguments)?;
            bounded(&arguments, size(&result))?;
            Ok(result)
        });
    }
    template
}

/// Go's own functions that make texts, with bounds: `{{ $x = print $x $x }}` in a loop must not take all memory.
const TEXTS: &[&str] = &["print", "println", "printf", "html", "js", "urlquery"];

fn go(name: &'static str, arguments: &Arguments<'_>) -> Result<Value, TemplateError> {
    bounded(arguments, arguments.1.iter().map(size).sum())?;
    if name == "printf" {
        let verbs = |text: &str| text.matches('%').count();
        if let Some(Value::String(format)) = arguments.1.first()
            && verbs(format) > VERBS
        {
            return Err(arguments.error(&format!("takes {VERBS} verbs")));
        }
    }
    // The function itself, called by a template of its own.
    let named = |at: usize| format!("a{at}");
    let call: String = (0..arguments.1.len()).map(|at| format!(" .{}", named(at))).collect();
    let given = arguments.1.iter().enumerate();
    let given = given.map(|(at, value)| (named(at).into(), value.clone()));
    let data = Value::Map(std::sync::Arc::new(given.collect()));
    let template = Template::new(name).parse(&format!("{{{{ {name}{call} }}}}"))?;
    let text = template.execute_to_string(&data)?;
    bounded(arguments, text.len())?;
    Ok(Value::String(text.into()))
}

/// How many bytes a value takes as a text, about.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::List(values) => values.iter().map(|value| size(value) + 1).sum(),
        Value::Map(map) => map.iter().map(|(key, value)| key.len() + size(value) + 2).sum(),
        _ => 24,
    }
}

fn sprig(name: &'static str, arguments: &Arguments<'_>) -> Result<Value, TemplateError> {
    let count = match name {
        "coalesce" => arguments.1.len(),
        "quote" | "squote" => arguments.1.len(),
        "replace" | "ternary" => 3,
        "b64dec" | "b64enc" | "empty" | "lower" | "toJson" | "toString" | "trim" | "upper" => 1,
        _ => 2,
    };
    arguments.exactly(count)?;
    let value = |at: usize| arguments.1.get(at).cloned().unwrap_or(Value::Nil);
    let text = |at: usize| arguments.text(at);
    let string = |text: String| Ok(Value::String(text.into()));
    match name {
        "default" => Ok(if value(1).is_truthy() { value(1) } else { value(0) }),
        "coalesce" => {
            Ok(arguments.1.iter().find(|value| value.is_truthy()).cloned().unwrap_or(Value::Nil))
        }
        "ternary" => Ok(if value(2).is_truthy() { value(0) } else { value(1) }),
        "empty" => Ok(Value::Bool(!value(0).is_truthy())),
        "hasPrefix" => Ok(Value::Bool(text(1)?.starts_with(&text(0)?))),
        "hasSuffix" => Ok(Value::Bool(text(1)?.ends_with(&text(0)?))),
        "contains" => Ok(Value::Bool(text(1)?.contains(&text(0)?))),
        "lower" => string(text(0)?.to_lowercase()),
        "upper" => string(text(0)?.to_uppercase()),
        "trim" => string(text(0)?.trim().to_owned()),
        "trimPrefix" => {
            let (prefix, whole) = (text(0)?, text(1)?);
            string(whole.strip_prefix(&prefix).unwrap_or(&whole).to_owned())
        }
        "trimSuffix" => {
            let (suffix, whole) = (text(0)?, text(1)?);
            string(whole.strip_suffix(&suffix).unwrap_or(&whole).to_owned())
        }
        "trunc" => {
            let (length, whole) = (arguments.number(0)?, text(1)?);
            string(whole.chars().take(length).collect())
        }
        "replace" => {
            let (old, new, whole) = (text(0)?, text(1)?, text(2)?);
            let found = whole.matches(&old).count();
            bounded(arguments, whole.len() + found.saturating_mul(new.len()))?;
            string(whole.replace(&old, &new))
        }
        "indent" | "nindent" => {
            let pad = " ".repeat(arguments.number(0)?);
            let whole = text(1)?;
            let lines = whole.matches('\n').count() + 1;
            bounded(arguments, whole.len() + lines.saturating_mul(pad.len()))?;
            let start = if name == "nindent" { "\n" } else { "" };
            string(format!("{start}{pad}{}", whole.replace('\n', &format!("\n{pad}"))))
        }
        "quote" => all(arguments, |text| serde_json::Value::from(text).to_string()),
        "squote" => all(arguments, |text| format!("'{text}'")),
        "toString" => string(text(0)?),
        "toJson" => string(json(&value(0), arguments)?.to_string()),
        "splitList" => {
            let (separator, whole) = (text(0)?, text(1)?);
            let parts: Vec<Value> = if separator.is_empty() {
                whole.chars().map(|c| Value::String(c.to_string().into())).collect()
            } else {
                whole.split(&separator).map(|part| Value::String(part.into())).collect()
            };
            Ok(Value::List(parts.into()))
        }
        "join" => {
            let Value::List(parts) = value(1) else { return string(text(1)?) };
            let separator = text(0)?;
            let parts: Vec<String> = parts.iter().map(ToString::to_string).collect();
            let length = parts.iter().map(|part| part.len() + separator.len()).sum();
            bounded(arguments, length)?;
            string(parts.join(&separator))
        }
        "b64enc" => string(data_encoding::BASE64.encode(text(0)?.as_bytes())),
        _ => {
            let bytes = data_encoding::BASE64.decode(text(0)?.as_bytes()).ok();
            let decoded = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            string(decoded.ok_or_else(|| arguments.error("takes a text in base64"))?)
        }
    }
}

fn bounded(arguments: &Arguments<'_>, length: usize) -> Result<(), TemplateError> {
    if length <= LIMIT { Ok(()) } else { Err(arguments.error("would make too long a text")) }
}

/// Each argument, made to something else, with blanks between; nil ones are left out, as sprig does.
fn all(arguments: &Arguments<'_>, form: fn(&str) -> String) -> Result<Value, TemplateError> {
    let given = (0..arguments.1.len()).filter(|at| !matches!(arguments.1[*at], Value::Nil));
    let texts: Vec<String> =
        given.map(|at| arguments.text(at).map(|text| form(&text))).collect::<Result<_, _>>()?;
    Ok(Value::String(texts.join(" ").into()))
}

fn json(value: &Value, arguments: &Arguments<'_>) -> Result<serde_json::Value, TemplateError> {
    use serde_json::Value as Json;
    Ok(match value {
        Value::Nil => Json::Null,
        Value::Bool(truth) => Json::from(*truth),
        Value::Int(number) => Json::from(*number),
        Value::Uint(number) => Json::from(*number),
        Value::Float(number) => Json::from(*number),
        Value::String(text) => Json::from(&**text),
        Value::List(values) => {
            values.iter().map(|value| json(value, arguments)).collect::<Result<_, _>>()?
        }
        Value::Map(map) => {
            let entries =
                map.iter().map(|(key, value)| Ok((key.to_string(), json(value, arguments)?)));
            Json::Object(entries.collect::<Result<_, TemplateError>>()?)
        }
        _ => return Err(arguments.error("takes no functions")),
    })
}
