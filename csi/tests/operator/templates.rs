//! Templates: what Go and sprig make of them, and what is refused.

use strongroom_csi::operator::template::{Context, LIMIT, render};

fn context() -> Context {
    let parameters =
        [("bucket", "b"), ("region", "cn-north-1"), ("empty", ""), ("list", "a b"), ("port", "0")];
    Context {
        parameters: parameters.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        secret: ("secret-r".to_owned(), "kb-system".to_owned()),
        storage_class: "sc-r".to_owned(),
    }
}

/// Template and result; those that need no sprig were executed by Go 1.26's text/template.
const VECTORS: &[(&str, &str)] = &[
    ("{{ .Parameters.bucket }}", "b"),
    ("{{ .Parameters.none }}", "<no value>"),
    ("{{ index .Parameters \"none\" }}", ""),
    ("{{ printf \"%s\" .Parameters.none }}", "%!s(<nil>)"),
    ("{{ printf \"%s\" (index .Parameters \"none\") }}", ""),
    ("{{ .CSIDriverSecretRef.Namespace }}/{{ .CSIDriverSecretRef.Name }}", "kb-system/secret-r"),
    ("{{ .GeneratedStorageClassName }}", "sc-r"),
    ("a {{- \" b\" -}} \n c", "a bc"),
    (
        "{{ $x := index .Parameters \"empty\" }}{{ if not $x }}{{ $x = \"y\" }}{{ end }}{{ $x }}",
        "y",
    ),
    ("{{ if hasPrefix \"cn-\" .Parameters.region }}cn{{ else }}other{{ end }}", "cn"),
    ("{{ $o := splitList \" \" .Parameters.list }}{{ $o | toJson }}", "[\"a\",\"b\"]"),
    ("{{ .Parameters.none | default \"x\" }}{{ .Parameters.empty | default \"y\" }}", "xy"),
    ("{{ if ne .Parameters.port \"0\" }}{{ .Parameters.port }}{{ else }}21{{ end }}", "21"),
    ("{{ .Parameters.bucket | quote }} {{ squote \"x\" }}", "\"b\" 'x'"),
    ("{{ \"a\" | upper | lower | trim | trunc 1 }}", "a"),
    ("{{ replace \"b\" \"c\" \"abc\" }}", "acc"),
    ("{{ ternary \"y\" \"n\" true }}{{ empty \"\" }}{{ coalesce \"\" \"z\" }}", "ytruez"),
    ("{{ b64enc \"x\" }}{{ b64dec \"eA==\" }}", "eA==x"),
    ("{{ indent 2 \"a\\nb\" }}", "  a\n  b"),
    ("{{ join \",\" (splitList \" \" \"a b\") }}", "a,b"),
    ("{{ range $i, $v := splitList \" \" \"a b\" }}{{ $i }}{{ $v }}{{ end }}", "0a1b"),
    ("{{ with .Parameters.empty }}x{{ end }}{{ with .Parameters.bucket }}{{ . }}{{ end }}", "b"),
    ("{{/* nothing */}}x", "x"),
    (
        "{{ printf \"--memory-limit %s %q\" \"512\" .Parameters.bucket }}",
        "--memory-limit 512 \"b\"",
    ),
];

#[test]
fn templates_render_as_go_and_sprig_render_them() {
    for (template, expected) in VECTORS {
        assert_eq!(render(template, &context()).as_deref(), Ok(*expected), "{template}");
    }
}

#[test]
fn what_is_not_known_or_malformed_is_an_error_that_says_which() {
    for (template, part) in [
        ("{{ genCA \"x\" 3 }}", "genCA"),
        ("{{ env \"HOME\" }}", "env"),
        ("{{ .Parameters.bucket", "unclosed"),
        ("{{ if }}x{{ end }}", ""),
        ("{{ $x }}", "x"),
        ("{{ template \"other\" }}", "other"),
        ("{{ hasPrefix \"a\" }}", "hasPrefix"),
        ("{{ range 1000000 }}x{{ end }}", "loops"),
        ("{{ define \"a\" }}{{ template \"a\" }}{{ end }}{{ template \"a\" }}", "nests"),
        ("{{ indent 65536 \"a\\nb\" }}", "too long"),
    ] {
        let error = render(template, &context()).expect_err(template);
        assert!(error.contains(part), "{template}: {error}");
    }
}

#[test]
fn an_error_tells_no_parameter() {
    let mut context = context();
    context.parameters.insert("key".to_owned(), "s3cr3t".to_owned());
    for template in [
        "{{ index \"x\" .Parameters.key }}",
        "{{ slice .Parameters.key 100 }}",
        "{{ lt .Parameters.key 1 }}",
        "{{ b64dec .Parameters.key }}",
    ] {
        let error = render(template, &context).expect_err(template);
        assert!(!error.contains("s3cr3t"), "{error}");
    }
}

#[test]
fn results_and_templates_are_bounded() {
    let long = "x".repeat(LIMIT);
    assert_eq!(render(&long, &context()).map(|text| text.len()), Ok(LIMIT));
    assert!(render(&format!("{long}x"), &context()).is_err());
    let grows =
        "{{ $x := \"xxxxxxxxxxxxxxxx\" }}{{ range 9000 }}{{ printf \"%s%s%s\" $x $x $x }}{{ end }}";
    let error = render(grows, &context()).expect_err("too long");
    assert!(error.contains("longer than"), "{error}");
    let doubles =
        "{{ $x := \"xxxxxxxxxxxxxxxx\" }}{{ range 40 }}{{ $x = printf \"%s%s\" $x $x }}{{ end }}";
    assert!(render(doubles, &context()).is_err());
    let escapes = "{{ $x := `\\` }}{{ range 40 }}{{ $x = js $x }}{{ end }}";
    assert!(render(escapes, &context()).is_err());
    let quotes = "{{ $x := `\\` }}{{ range 40 }}{{ $x = toJson $x }}{{ end }}";
    assert!(render(quotes, &context()).is_err());
    let pads = format!("{{{{ printf `{}` }}}}", "%65535d".repeat(200));
    assert!(render(&pads, &context()).is_err());
}
