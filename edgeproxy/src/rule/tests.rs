use super::*;
use crate::route::EntryPoint;
use http::HeaderMap;
use proptest::prelude::*;

fn host(name: &str) -> Rule {
    Rule::Is(Matcher::Host(name.into()))
}

fn prefix(path: &str) -> Rule {
    Rule::Is(Matcher::PathPrefix(path.into()))
}

#[test]
fn the_v3_form_parses_with_its_precedence() {
    for (text, rule) in [
        ("Host(`a.example`)", host("a.example")),
        ("  host ( \"A.Example.\" ) ", host("a.example")),
        ("Host(`a`, `b`)", Rule::Any(vec![host("a"), host("b")])),
        (
            "Host(`a`) || Host(`b`) && PathPrefix(`/x`)",
            Rule::Any(vec![host("a"), Rule::All(vec![host("b"), prefix("/x")])]),
        ),
        (
            "(Host(`a`) || Host(`b`)) && PathPrefix(`/x`)",
            Rule::All(vec![Rule::Any(vec![host("a"), host("b")]), prefix("/x")]),
        ),
        (
            "!Host(`a`) && !(Host(`b`))",
            Rule::All(vec![Rule::Not(Box::new(host("a"))), Rule::Not(Box::new(host("b")))]),
        ),
        ("Path(`/a\\b`)", Rule::Is(Matcher::Path("/a\\b".into()))),
        (r#"Path("/a\"\\b`")"#, Rule::Is(Matcher::Path("/a\"\\b`".into()))),
        ("Method(`get`)", Rule::Is(Matcher::Method(Method::GET))),
        ("Header(`X-A`, `b`)", Rule::Is(Matcher::Header(HeaderName::from_static("x-a"), "b".into()))),
    ] {
        assert_eq!(Rule::parse(text), Ok(rule), "{text}");
    }
}

#[test]
fn the_v1_form_means_and_between_matchers_and_or_between_values() {
    for (text, same_as) in [
        ("Host:test.example.org", "Host(`test.example.org`)"),
        ("Host:A.example, b.example", "Host(`a.example`) || Host(`b.example`)"),
        ("Host:a;PathPrefix:/x,/y", "Host(`a`) && (PathPrefix(`/x`) || PathPrefix(`/y`))"),
        (" Host : a ; ", "Host(`a`)"),
        ("Headers:X-A,b", "Header(`X-A`, `b`)"),
    ] {
        assert_eq!(Rule::parse_v1(text), Rule::parse(same_as), "{text}");
        assert!(Rule::parse_v1(text).is_ok(), "{text}");
    }
}

#[test]
fn errors_say_what_and_where() {
    for (text, offset, word) in [
        ("", 0, "the end"),
        ("Host(`a`) Host(`b`)", 10, "expected `&&`"),
        ("Host(`a`", 8, "`)`"),
        ("Host(`a) && Path(`/`)", 18, "expected `)`"),
        ("Host(a)", 5, "between"),
        ("Host(`a`) && HostRegexp(`b`)", 13, "`HostRegexp` is not supported"),
        ("Hots(`a`)", 0, "not a matcher"),
        ("Host(`https://a`)", 0, "no scheme"),
        ("Path(`x`)", 0, "begin with `/`"),
        ("Header(`a`)", 0, "wrong number"),
        ("(Host(`a`)", 10, "`)`"),
        ("Host(`a`) &", 10, "expected `&&`"),
    ] {
        let error = Rule::parse(text).unwrap_err();
        assert_eq!(error.offset, offset, "{text}: {error}");
        assert!(error.what.contains(word), "{text}: {error}");
    }
    for (text, offset, word) in [
        ("", 0, "nothing"),
        (";", 0, "nothing"),
        ("a.example", 0, "Matcher:value"),
        ("Host:a; PathPrefixStrip:/x", 8, "not supported"),
        ("Host:a,,b", 0, "not a host name"),
    ] {
        let error = Rule::parse_v1(text).unwrap_err();
        assert_eq!(error.offset, offset, "{text}: {error}");
        assert!(error.what.contains(word), "{text}: {error}");
    }
}

#[test]
fn limits_hold_at_their_edge() {
    let nested = |depth: usize| format!("{}Host(`a`)", "!".repeat(depth));
    assert!(Rule::parse(&nested(RULE_MAX_DEPTH - 1)).is_ok());
    assert!(Rule::parse(&nested(RULE_MAX_DEPTH)).unwrap_err().what.contains("nested"));
    // Depth is nesting, not length.
    assert!(Rule::parse(&["Host(`a`)"; 100].join(" || ")).is_ok());

    let long = |bytes: usize| format!("Path(`/{}`)", "x".repeat(bytes - 9));
    assert_eq!(long(RULE_MAX_BYTES).len(), RULE_MAX_BYTES);
    assert!(Rule::parse(&long(RULE_MAX_BYTES)).is_ok());
    assert!(Rule::parse(&long(RULE_MAX_BYTES + 1)).is_err());
    assert!(Rule::parse_v1(&format!("Path:/{}", "x".repeat(RULE_MAX_BYTES))).is_err());
}

#[test]
fn rules_match_what_they_describe() {
    let mut headers = HeaderMap::new();
    headers.append("x-a", "1".parse().unwrap());
    headers.append("x-a", "2".parse().unwrap());
    let mut request = RequestView::new(EntryPoint::Http, "a.example", "/app/x");
    request.headers = Some(&headers);
    for (rule, matches) in [
        ("Host(`A.example`)", true),
        ("Host(`b.example`)", false),
        ("PathPrefix(`/app`)", true),
        ("PathPrefix(`/app/y`)", false),
        ("Path(`/app/x`)", true),
        ("Path(`/app`)", false),
        ("Method(`GET`) && !Method(`POST`)", true),
        ("Header(`X-A`, `2`)", true),
        ("Header(`X-A`, `3`) || Header(`X-B`, `1`)", false),
        ("Host(`a.example`) && (PathPrefix(`/z`) || PathPrefix(`/app`))", true),
    ] {
        assert_eq!(Rule::parse(rule).unwrap().matches(&request), matches, "{rule}");
    }
}

#[test]
fn hosts_are_those_outside_of_which_nothing_matches() {
    for (rule, hosts) in [
        ("Host(`a`) || Host(`b`)", Some("a b")),
        ("Host(`a`) || Path(`/`)", None),
        ("Host(`a`) && Path(`/`)", Some("a")),
        ("Path(`/`) && Method(`GET`)", None),
        ("!Host(`a`)", None),
        ("(Host(`a`) || Host(`b`)) && (Host(`b`) || Host(`c`))", Some("b")),
        ("Host(`a`) && Host(`b`)", Some("")),
    ] {
        let rule = Rule::parse(rule).unwrap();
        let got = rule.hosts().map(|hosts| hosts.into_iter().collect::<Vec<_>>().join(" "));
        assert_eq!(got.as_deref(), hosts, "{rule}");
    }
}

/// Rules as the parser builds them.
pub(crate) fn any_rule() -> impl Strategy<Value = Rule> {
    let matcher = prop_oneof![
        "[a-c]\\.example".prop_map(Matcher::Host),
        "/[a-c`\"\\\\]{0,2}".prop_map(Matcher::Path),
        "/[a-c]{0,2}".prop_map(Matcher::PathPrefix),
        prop_oneof![Just(Method::GET), Just(Method::POST)].prop_map(Matcher::Method),
        ("x-[ab]", "[`\" ,()&|!]{0,3}")
            .prop_map(|(name, value)| Matcher::Header(name.parse().unwrap(), value)),
    ];
    matcher.prop_map(Rule::Is).prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|rule| Rule::Not(Box::new(rule))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Rule::All),
            prop::collection::vec(inner, 2..4).prop_map(Rule::Any),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_parses_back(rule in any_rule()) {
        prop_assert_eq!(Rule::parse(&rule.to_string()), Ok(rule));
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC*") {
        let _ = (Rule::parse(&text), Rule::parse_v1(&text));
    }

    #[test]
    fn no_nearly_right_text_makes_the_parsers_panic(parts in prop::collection::vec("Host|Path|Header|[(]|[)]|!|&&|[|][|]|`a`|\"|\\\\|,|:|;| |é", 0..20)) {
        let text = parts.concat();
        for error in [Rule::parse(&text).err(), Rule::parse_v1(&text).err()].into_iter().flatten() {
            prop_assert!(error.offset <= text.len(), "{error}");
        }
    }

    #[test]
    fn a_rule_only_matches_the_hosts_it_names(rule in any_rule(), host in "[a-d]\\.example", path in "/[a-c]{0,2}") {
        let request = RequestView::new(EntryPoint::Http, &host, &path);
        if let Some(hosts) = rule.hosts() && rule.matches(&request) {
            prop_assert!(hosts.contains(host.as_str()));
        }
    }
}
