//! A mapping whose keys are known: each is taken once by whoever understands it, and what is left over is complained about.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Reader;
use super::scalar;
use super::tree::{Key, Node, Value};

/// A value, and the keys that lead to it.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    pub(super) key: String,
    pub(super) node: &'a Node,
}

/// A mapping that is being read.
#[derive(Debug)]
pub(super) struct Section<'a> {
    key: String,
    entries: &'a [(Key, Node)],
    known: Vec<&'static str>,
}

impl<'a> Field<'a> {
    pub(super) fn join(key: &str, name: &str) -> String {
        if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }
    }

    fn child(&self, key: &'a Key, node: &'a Node) -> Field<'a> {
        Field { key: Self::join(&self.key, &key.text), node }
    }

    /// The items of a list; nothing for anything else.
    fn items(&self) -> Vec<Field<'a>> {
        let Value::List(items) = &self.node.value else { return Vec::new() };
        let item = |(number, node): (usize, &'a Node)| Field { key: format!("{}[{number}]", self.key), node };
        items.iter().enumerate().map(item).collect()
    }

    pub(super) fn is_null(&self) -> bool {
        self.node.value == Value::Null
    }

    pub(super) fn as_text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }
}

impl<'a> Section<'a> {
    /// The value of a key, if it is there and not null.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Field<'a>> {
        self.known.push(name);
        let (_, node) = self.entries.iter().find(|(key, _)| key.text == name)?;
        let field = Field { key: Field::join(&self.key, name), node };
        Some(field).filter(|field| !field.is_null())
    }

    /// The same, read by a function; nothing if that finds it wrong.
    pub(super) fn read<'r, T>(
        &mut self,
        reader: &mut Reader<'r>,
        name: &'static str,
        read: impl FnOnce(&mut Reader<'r>, &Field<'a>) -> Option<T>,
    ) -> Option<T> {
        self.take(name).and_then(|field| read(reader, &field))
    }

    /// Complains about each key that nobody has taken. `unsupported` has those that exist and have no meaning here, with what to
    /// do instead.
    pub(super) fn finish(self, reader: &mut Reader<'_>, unsupported: &[(&str, &str)]) {
        for (key, node) in self.entries {
            if self.known.contains(&key.text.as_str()) || key.text.starts_with("x-") {
                continue;
            }
            let at = Node { at: key.at, value: node.value.clone() };
            let field = Field { key: Field::join(&self.key, &key.text), node: &at };
            match unsupported.iter().find(|(name, _)| *name == key.text) {
                Some((_, remedy)) => reader.warn(&field, "has no effect in a Swarm", *remedy),
                None => match nearest(&key.text, &self.known) {
                    Some(name) => {
                        reader.error_with(
                            &field,
                            "is not a key that exists here",
                            format!("Did you mean `{name}`?"),
                        );
                    }
                    None => reader.error(&field, "is not a key that exists here"),
                },
            }
        }
    }
}

impl Reader<'_> {
    /// Opens a mapping.
    pub(super) fn section<'a>(&mut self, field: &Field<'a>) -> Option<Section<'a>> {
        match &field.node.value {
            Value::Map(entries) => Some(Section { key: field.key.clone(), entries, known: Vec::new() }),
            _ => {
                self.error(field, format!("must be a mapping, not {}", field.node.kind()));
                None
            }
        }
    }

    /// The entries of a mapping whose keys are names.
    pub(super) fn entries<'a>(&mut self, field: &Field<'a>) -> Vec<(String, Field<'a>)> {
        match &field.node.value {
            Value::Map(entries) => {
                entries.iter().map(|(key, node)| (key.text.clone(), field.child(key, node))).collect()
            }
            Value::Null => Vec::new(),
            _ => {
                self.error(field, format!("must be a mapping, not {}", field.node.kind()));
                Vec::new()
            }
        }
    }

    /// The entries of a mapping whose keys name something in the Swarm.
    pub(super) fn named<'a>(&mut self, field: &Field<'a>) -> Vec<(String, Field<'a>)> {
        let mut entries = self.entries(field);
        entries.retain(|(name, field)| {
            let good = is_name(name);
            if !good {
                self.error(field, format!("{name:?} cannot be a name; it must be {NAME_FORM}"));
            }
            good
        });
        entries
    }

    /// The name of something in the Swarm.
    pub(super) fn name(&mut self, field: &Field<'_>) -> Option<String> {
        self.parsed(field, NAME_FORM, |text| is_name(text).then(|| text.to_owned()))
    }

    /// The items of a list; a single value is taken for a list of one.
    pub(super) fn list<'a>(&mut self, field: &Field<'a>) -> Vec<Field<'a>> {
        match &field.node.value {
            Value::List(_) => field.items(),
            Value::Null => Vec::new(),
            Value::Text(_) => vec![field.clone()],
            Value::Map(_) => {
                self.error(field, "must be a list, not a mapping");
                Vec::new()
            }
        }
    }

    pub(super) fn text(&mut self, field: &Field<'_>) -> Option<String> {
        let text = field.as_text();
        if text.is_none() {
            self.error(field, format!("must be a single value, not {}", field.node.kind()));
        }
        text.map(str::to_owned)
    }

    pub(super) fn texts(&mut self, field: &Field<'_>) -> Option<Vec<String>> {
        Some(self.list(field).iter().filter_map(|item| self.text(item)).collect())
    }

    pub(super) fn set(&mut self, field: &Field<'_>) -> Option<BTreeSet<String>> {
        self.texts(field).map(|texts| texts.into_iter().collect())
    }

    pub(super) fn boolean(&mut self, field: &Field<'_>) -> Option<bool> {
        self.parsed(field, "true or false", |text| match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        })
    }

    pub(super) fn whole(&mut self, field: &Field<'_>) -> Option<u64> {
        // Beyond that, Swarm itself would take it for a negative number.
        self.parsed(field, "a whole number", |text| text.parse().ok().filter(|n| *n <= i64::MAX as u64))
    }

    pub(super) fn duration(&mut self, field: &Field<'_>) -> Option<Duration> {
        self.parsed(field, "a time like 1m30s", scalar::duration)
    }

    pub(super) fn bytes(&mut self, field: &Field<'_>) -> Option<i64> {
        self.parsed(field, "a size like 50M", scalar::bytes)
    }

    /// A single value of a certain form.
    pub(super) fn parsed<T>(
        &mut self,
        field: &Field<'_>,
        form: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(field)?;
        let value = parse(&text);
        if value.is_none() {
            self.error(field, format!("must be {form}, not {text:?}"));
        }
        value
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&mut self, field: &Field<'_>, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        self.parsed(field, &format!("one of {}", names.join(", ")), |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
        })
    }

    /// `KEY: value` as a mapping, or `KEY=value` as a list. A key alone has no value.
    pub(super) fn pairs(&mut self, field: &Field<'_>) -> Option<BTreeMap<String, Option<String>>> {
        let mut pairs = BTreeMap::new();
        if field.is_list() {
            for text in self.texts(field)? {
                let (key, value) = match text.split_once('=') {
                    Some((key, value)) => (key, Some(value.to_owned())),
                    None => (text.as_str(), None),
                };
                pairs.insert(key.to_owned(), value);
            }
        } else {
            for (key, value) in self.entries(field) {
                let text = if value.is_null() { None } else { Some(self.text(&value)?) };
                pairs.insert(key, text);
            }
        }
        if pairs.remove("").is_some() {
            self.error(field, "has a name that is empty");
        }
        Some(pairs)
    }

    /// The same for labels and options, where no value is an empty one.
    pub(super) fn labels(&mut self, field: &Field<'_>) -> Option<BTreeMap<String, String>> {
        let pairs = self.pairs(field)?;
        Some(pairs.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
    }
}

/// What the [Compose specification] lets a service, a network, a volume, a secret or a config be called.
///
/// [Compose specification]: https://github.com/compose-spec/compose-spec/blob/main/schema/compose-spec.json
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

const NAME_FORM: &str = "letters, digits, `.`, `-` and `_`";

/// The known name that somebody who wrote another one may have meant: at most two letters away.
fn nearest(wrong: &str, known: &[&'static str]) -> Option<&'static str> {
    let length = wrong.chars().count();
    let near = known.iter().filter(|name| name.len().abs_diff(length) <= 2);
    let near = near.map(|name| (distance(wrong, name), *name)).min()?;
    (near.0 <= 2 && near.0 < near.1.len()).then_some(near.1)
}

/// Letters to insert, remove or change ([Levenshtein](https://en.wikipedia.org/wiki/Levenshtein_distance)).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
