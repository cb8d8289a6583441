//! Owns the rule grammar: which requests a route takes. Parses the v1 form (`Host:a.example;PathPrefix:/x`) and the v3 form
//! (``Host(`a.example`) && !PathPrefix(`/x`)``) into one syntax tree, prints it in the v3 form, and evaluates it. Never looks at labels.
//!
//! The grammar of the v3 form (`!` binds tighter than `&&`, which binds tighter than `||`):
//!
//! ```text
//! any     = all { "||" all }
//! all     = not { "&&" not }
//! not     = "!" not | "(" any ")" | matcher
//! matcher = NAME "(" string { "," string } ")"
//! string  = "`" anything but ` "`"   |   '"' anything, \" and \\ escaped '"'
//! ```
//!
//! A new matcher is a variant of [`Matcher`], a line in `MATCHERS`, and an arm in `Matcher::{new, matches, parts}`.

use crate::{host::normalise_host, route::RequestView};
use http::{HeaderName, Method};
use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
};

/// Longest rule text that is parsed, in bytes.
pub const RULE_MAX_BYTES: usize = 4096;
/// Deepest nesting of `!` and parentheses.
pub const RULE_MAX_DEPTH: usize = 32;

/// What a request must be for a route to take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// A single test.
    Is(Matcher),
    /// The opposite.
    Not(Box<Rule>),
    /// Every one of at least two.
    All(Vec<Rule>),
    /// At least one of at least two.
    Any(Vec<Rule>),
}

/// One test of one property of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Matcher {
    /// The host, in the normal form of [`normalise_host`].
    Host(String),
    /// The whole path.
    Path(String),
    /// The beginning of the path, compared as text: `/app` takes `/app`, `/app/x` and `/apple`.
    PathPrefix(String),
    /// The method.
    Method(Method),
    /// One of the header's values, compared as bytes.
    Header(HeaderName, String),
}

/// Why a rule was not understood, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset} of the rule")]
pub struct RuleError {
    /// Byte offset in the rule text.
    pub offset: usize,
    /// What is wrong, in words.
    pub what: String,
}

impl Rule {
    /// Parses the form of Traefik 2 and 3.
    ///
    /// # Errors
    /// Says what was wrong and at which byte. A matcher that exists in Traefik but not here is an error that names it.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        check_length(text)?;
        let mut parser = Parser { text, at: 0, depth: 0 };
        let rule = parser.any()?;
        parser.skip_space();
        match parser.rest().chars().next() {
            None => Ok(rule),
            Some(found) => parser.fail(format!("expected `&&`, `||` or the end, found `{found}`")),
        }
    }

    /// Parses the form of Traefik 1: `Matcher:value,value;Matcher:value`, where `,` means or and `;` means and.
    ///
    /// # Errors
    /// As [`Rule::parse`].
    pub fn parse_v1(text: &str) -> Result<Self, RuleError> {
        check_length(text)?;
        let mut all = Vec::new();
        let mut offset = 0;
        for part in text.split(';') {
            if !part.trim().is_empty() {
                all.push(parse_v1_part(part, offset)?);
            }
            offset += part.len() + 1;
        }
        join(all, Rule::All).ok_or_else(|| RuleError {
            offset: 0,
            what: "expected a matcher such as `Host:a.example`, found nothing".into(),
        })
    }

    /// Whether the request is one of those that this rule describes.
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        match self {
            Self::Is(matcher) => matcher.matches(request),
            Self::Not(rule) => !rule.matches(request),
            Self::All(rules) => rules.iter().all(|rule| rule.matches(request)),
            Self::Any(rules) => rules.iter().any(|rule| rule.matches(request)),
        }
    }

    /// The hosts outside of which the rule can never match, or `None` if it may match any host. What the route table is indexed by.
    pub fn hosts(&self) -> Option<BTreeSet<&str>> {
        match self {
            Self::Is(Matcher::Host(host)) => Some(BTreeSet::from([host.as_str()])),
            Self::Is(_) | Self::Not(_) => None,
            Self::All(rules) => {
                rules.iter().filter_map(Self::hosts).reduce(|a, b| a.intersection(&b).copied().collect())
            }
            Self::Any(rules) => rules.iter().map(Self::hosts).try_fold(BTreeSet::new(), |mut hosts, more| {
                hosts.extend(more?);
                Some(hosts)
            }),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(matcher) => matcher.fmt(f),
            Self::Not(rule) => match **rule {
                Self::Is(_) | Self::Not(_) => write!(f, "!{rule}"),
                Self::All(_) | Self::Any(_) => write!(f, "!({rule})"),
            },
            Self::All(rules) => fmt_joined(f, rules, " && "),
            Self::Any(rules) => fmt_joined(f, rules, " || "),
        }
    }
}

fn fmt_joined(f: &mut fmt::Formatter<'_>, rules: &[Rule], joint: &str) -> fmt::Result {
    for (n, rule) in rules.iter().enumerate() {
        if n > 0 {
            f.write_str(joint)?;
        }
        match rule {
            Rule::Is(_) | Rule::Not(_) => write!(f, "{rule}")?,
            Rule::All(_) | Rule::Any(_) => write!(f, "({rule})")?,
        }
    }
    Ok(())
}

/// Names that the grammar knows, how many values each test takes, and whether it exists here.
const MATCHERS: [(&str, usize, bool); 13] = [
    ("Host", 1, true),
    ("Path", 1, true),
    ("PathPrefix", 1, true),
    ("Method", 1, true),
    ("Header", 2, true),
    ("HostSNI", 1, false),
    ("HostRegexp", 1, false),
    ("PathRegexp", 1, false),
    ("PathPrefixStrip", 1, false),
    ("HeaderRegexp", 2, false),
    ("Query", 2, false),
    ("QueryRegexp", 2, false),
    ("ClientIP", 1, false),
];

impl Matcher {
    /// Builds the test `name` from as many values as it takes.
    fn new(name: &str, values: &[String]) -> Result<Self, String> {
        let [value, rest @ ..] = values else { return Err(format!("`{name}` needs a value")) };
        match (name, rest) {
            ("Host", []) => {
                normalise_host(value).map(|host| Self::Host(host.into_owned())).ok_or_else(|| {
                    format!("`{value}` is not a host name (no scheme, port, path or wildcard belongs here)")
                })
            }
            ("Path" | "PathPrefix", []) if !value.starts_with('/') => {
                Err(format!("the path `{value}` does not begin with `/`"))
            }
            ("Path", []) => Ok(Self::Path(value.clone())),
            ("PathPrefix", []) => Ok(Self::PathPrefix(value.clone())),
            ("Method", []) => Method::from_bytes(value.to_ascii_uppercase().as_bytes())
                .map(Self::Method)
                .map_err(|_| format!("`{value}` is not a method")),
            ("Header", [wanted]) => HeaderName::try_from(value.as_str())
                .map(|name| Self::Header(name, wanted.clone()))
                .map_err(|_| format!("`{value}` is not a header name")),
            _ => Err(format!("`{name}` has the wrong number of values")),
        }
    }

    fn matches(&self, request: &RequestView<'_>) -> bool {
        match self {
            Self::Host(host) => request.host == host,
            Self::Path(path) => request.path == path,
            Self::PathPrefix(prefix) => request.path.starts_with(prefix.as_str()),
            Self::Method(method) => request.method == method,
            Self::Header(name, wanted) => request.headers.is_some_and(|headers| {
                headers.get_all(name).iter().any(|value| value.as_bytes() == wanted.as_bytes())
            }),
        }
    }

    fn parts(&self) -> (&'static str, &str, Option<&str>) {
        match self {
            Self::Host(host) => ("Host", host, None),
            Self::Path(path) => ("Path", path, None),
            Self::PathPrefix(prefix) => ("PathPrefix", prefix, None),
            Self::Method(method) => ("Method", method.as_str(), None),
            Self::Header(name, wanted) => ("Header", name.as_str(), Some(wanted)),
        }
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, first, second) = self.parts();
        write!(f, "{name}(")?;
        fmt_quoted(f, first)?;
        if let Some(second) = second {
            f.write_str(", ")?;
            fmt_quoted(f, second)?;
        }
        f.write_char(')')
    }
}

fn fmt_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    if !text.contains('`') {
        return write!(f, "`{text}`");
    }
    write!(f, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// One rule as it is, several joined, none as `None`.
fn join(mut rules: Vec<Rule>, joined: fn(Vec<Rule>) -> Rule) -> Option<Rule> {
    if rules.len() > 1 { Some(joined(rules)) } else { rules.pop() }
}

fn check_length(text: &str) -> Result<(), RuleError> {
    if text.len() > RULE_MAX_BYTES {
        return Err(RuleError {
            offset: RULE_MAX_BYTES,
            what: format!("a rule has at most {RULE_MAX_BYTES} bytes; longer"),
        });
    }
    Ok(())
}

/// The canonical name of a matcher and how many values one test takes.
fn known_matcher(name: &str) -> Result<(&'static str, usize), String> {
    match MATCHERS.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name)) {
        Some(&(known, values, true)) => Ok((known, values)),
        Some((known, _, false)) => Err(format!("the matcher `{known}` is not supported by this version")),
        None => Err(format!("`{name}` is not a matcher (Host, Path, PathPrefix, Method, Header)")),
    }
}

/// Several values of a one-value test mean "any of them"; a two-value test takes exactly one pair.
fn matcher_rule(name: &'static str, takes: usize, values: Vec<String>) -> Result<Rule, String> {
    if takes > 1 {
        return Matcher::new(name, &values).map(Rule::Is);
    }
    let rules: Result<Vec<Rule>, String> =
        values.into_iter().map(|value| Matcher::new(name, &[value]).map(Rule::Is)).collect();
    join(rules?, Rule::Any).ok_or_else(|| format!("`{name}` needs a value"))
}

fn parse_v1_part(part: &str, offset: usize) -> Result<Rule, RuleError> {
    let offset = offset + (part.len() - part.trim_start().len());
    let fail = |what: String| RuleError { offset, what };
    let Some((name, values)) = part.split_once(':') else {
        return Err(fail(format!("expected `Matcher:value`, found `{}`", part.trim())));
    };
    let name = match name.trim() {
        name if name.eq_ignore_ascii_case("Headers") => "Header",
        name => name,
    };
    let (name, takes) = known_matcher(name).map_err(fail)?;
    let values = values.split(',').map(|value| value.trim().to_owned()).collect();
    matcher_rule(name, takes, values).map_err(fail)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn fail<T>(&self, what: String) -> Result<T, RuleError> {
        Err(RuleError { offset: self.at, what })
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), RuleError> {
        if self.take(token) {
            return Ok(());
        }
        match self.rest().chars().next() {
            Some(found) => self.fail(format!("expected `{token}`, found `{found}`")),
            None => self.fail(format!("expected `{token}`, found the end")),
        }
    }

    fn any(&mut self) -> Result<Rule, RuleError> {
        let mut rules = vec![self.all()?];
        while self.take("||") {
            rules.push(self.all()?);
        }
        Ok(join(rules, Rule::Any).expect("at least one rule was parsed"))
    }

    fn all(&mut self) -> Result<Rule, RuleError> {
        let mut rules = vec![self.not()?];
        while self.take("&&") {
            rules.push(self.not()?);
        }
        Ok(join(rules, Rule::All).expect("at least one rule was parsed"))
    }

    fn not(&mut self) -> Result<Rule, RuleError> {
        self.depth += 1;
        if self.depth > RULE_MAX_DEPTH {
            return self.fail(format!("nested deeper than {RULE_MAX_DEPTH}"));
        }
        let rule = if self.take("!") {
            Rule::Not(Box::new(self.not()?))
        } else if self.take("(") {
            let rule = self.any()?;
            self.expect(")")?;
            rule
        } else {
            self.matcher()?
        };
        self.depth -= 1;
        Ok(rule)
    }

    fn matcher(&mut self) -> Result<Rule, RuleError> {
        self.skip_space();
        let start = self.at;
        let name: &str = {
            let rest = self.rest();
            &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len())]
        };
        if name.is_empty() {
            return match self.rest().chars().next() {
                Some(found) => {
                    self.fail(format!("expected a matcher such as Host(`a.example`), found `{found}`"))
                }
                None => self.fail("expected a matcher such as Host(`a.example`), found the end".into()),
            };
        }
        let (name, takes) = known_matcher(name).map_err(|what| RuleError { offset: start, what })?;
        self.at += name.len();
        self.expect("(")?;
        let mut values = vec![self.string()?];
        while self.take(",") {
            values.push(self.string()?);
        }
        self.expect(")")?;
        matcher_rule(name, takes, values).map_err(|what| RuleError { offset: start, what })
    }

    fn string(&mut self) -> Result<String, RuleError> {
        if self.take("`") {
            let Some(end) = self.rest().find('`') else { return self.fail("this ` is not closed".into()) };
            let value = self.rest()[..end].to_owned();
            self.at += end + 1;
            return Ok(value);
        }
        if !self.take("\"") {
            return self.fail("expected a value between ` and `".into());
        }
        let mut value = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += at + 1;
                    return Ok(value);
                }
                '\\' => match chars.next() {
                    Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                    _ => {
                        return self
                            .fail("only \\\" and \\\\ can follow a backslash in a value that begins".into());
                    }
                },
                c => value.push(c),
            }
        }
        self.fail("this \" is not closed".into())
    }
}

#[cfg(test)]
pub(crate) mod tests;
