//! A YAML document as a tree that knows where everything stood: aliases put in place, merge keys merged. Bounded, so that
//! neither depth nor aliases of aliases cost more than the text is worth.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::{Diagnostic, Position};

/// The longest file.
pub const FILE_MAX_BYTES: usize = 1 << 20;
/// The most values in one, each use of an alias counted.
pub const NODES_MAX: usize = 100_000;
/// The deepest nesting.
pub const DEPTH_MAX: usize = 64;

/// A value and where it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing was written, or `null`.
    Null,
    /// Text, a number, a boolean: what it is, its reader knows.
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) at: Position,
    pub(super) text: String,
}

impl Node {
    /// What it is, with an article.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Text(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    fn weight(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Text(_) => 0,
            Value::List(items) => items.iter().map(Node::weight).sum(),
            Value::Map(entries) => entries.iter().map(|(_, node)| node.weight()).sum(),
        }
    }
}

/// Reads the one document of a text.
///
/// # Errors
/// A text that is too long, is not YAML, or goes beyond a limit.
pub(super) fn parse(text: &str) -> Result<Node, Diagnostic> {
    if text.len() > FILE_MAX_BYTES {
        let what = format!("the file is longer than {FILE_MAX_BYTES} bytes");
        return Err(Diagnostic::error(Position { line: 1, column: 1 }, "", what));
    }
    let mut builder = Builder { parser: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0 };
    let mut document = None;
    loop {
        match builder.next()? {
            (Event::StreamEnd, at) => {
                return Ok(document.unwrap_or(Node { at, value: Value::Null }));
            }
            (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _) => {}
            (_, at) if document.is_some() => {
                return Err(Diagnostic::error(at, "", "a second document begins here")
                    .remedy("keep each Compose file to one document"));
            }
            (event, at) => document = Some(builder.node(event, at, 0)?),
        }
    }
}

struct Builder<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Position), Diagnostic> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, position(&span.start))),
            Some(Err(error)) => {
                Err(Diagnostic::error(position(error.marker()), "", format!("not YAML: {}", error.info())))
            }
            None => Ok((Event::StreamEnd, Position { line: 1, column: 1 })),
        }
    }

    fn node(&mut self, event: Event<'a>, at: Position, depth: usize) -> Result<Node, Diagnostic> {
        self.count(1, at)?;
        if depth > DEPTH_MAX {
            return Err(Diagnostic::error(at, "", format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let (value, anchor) = match event {
            Event::Alias(anchor) => {
                // A value that contains itself has no anchor yet.
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(Diagnostic::error(at, "", "an alias of something that it is a part of"));
                };
                self.count(node.weight(), at)?;
                return Ok(Node { at, value: node.value });
            }
            Event::Scalar(text, style, anchor, _) => {
                let null =
                    style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                (if null { Value::Null } else { Value::Text(text.into_owned()) }, anchor)
            }
            Event::SequenceStart(anchor, _) => (self.list(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.map(depth)?, anchor),
            _ => return Err(Diagnostic::error(at, "", "not YAML: a value is missing")),
        };
        let node = Node { at, value };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Value, Diagnostic> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, at) => items.push(self.node(event, at, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Diagnostic> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut merged: Vec<(Key, Node)> = Vec::new();
        let mut lines = BTreeMap::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => break,
                (event, at) => self.node(event, at, depth + 1)?,
            };
            let (event, at) = self.next()?;
            let value = self.node(event, at, depth + 1)?;
            let key = match key {
                Node { at, value: Value::Text(text) } => Key { at, text },
                other => {
                    let what = format!("{} cannot be a key", other.kind());
                    return Err(Diagnostic::error(other.at, "", what));
                }
            };
            if key.text == "<<" {
                merge(&key, value, &mut merged)?;
            } else if let Some(line) = lines.insert(key.text.clone(), key.at.line) {
                let what = format!("the key is there already, in line {line}");
                return Err(Diagnostic::error(key.at, &key.text, what).remedy("remove one of the two"));
            } else {
                entries.push((key, value));
            }
        }
        // What the mapping says itself counts more than what it merges, and what it merges first more than what comes later.
        for (key, value) in merged {
            if lines.insert(key.text.clone(), key.at.line).is_none() {
                entries.push((key, value));
            }
        }
        Ok(Value::Map(entries))
    }

    fn count(&mut self, nodes: usize, at: Position) -> Result<(), Diagnostic> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            let what = format!("more than {NODES_MAX} values, aliases counted where they are used");
            return Err(Diagnostic::error(at, "", what));
        }
        Ok(())
    }
}

/// [The merge key](https://yaml.org/type/merge.html): a mapping, or a list of them.
fn merge(key: &Key, value: Node, merged: &mut Vec<(Key, Node)>) -> Result<(), Diagnostic> {
    match value.value {
        Value::Map(entries) => merged.extend(entries),
        Value::List(items) => items.into_iter().try_for_each(|item| merge(key, item, merged))?,
        _ => return Err(Diagnostic::error(value.at, &key.text, "only a mapping can be merged")),
    }
    Ok(())
}

fn position(marker: &Marker) -> Position {
    Position { line: marker.line().max(1), column: marker.col() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get<'a>(node: &'a Node, path: &str) -> &'a Node {
        path.split('.').fold(node, |node, part| match &node.value {
            Value::Map(entries) => &entries.iter().find(|(key, _)| key.text == part).expect(part).1,
            _ => panic!("{part}"),
        })
    }

    #[test]
    fn values_know_where_they_stood() {
        let tree = parse("services:\n  web:\n    image: nginx\n    command: ~\n").unwrap();
        let image = get(&tree, "services.web.image");
        assert_eq!(
            (image.at, &image.value),
            (Position { line: 3, column: 12 }, &Value::Text("nginx".into()))
        );
        assert_eq!(get(&tree, "services.web.command").value, Value::Null);
    }

    #[test]
    fn merged_keys_give_way_to_the_mappings_own() {
        let text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz:\n  <<: [*x, *y]\n  a: 5\n";
        let tree = parse(text).unwrap();
        for (path, expected) in [("z.a", "5"), ("z.b", "2"), ("z.c", "4")] {
            assert_eq!(get(&tree, path).value, Value::Text(expected.into()), "{path}");
        }
    }

    #[test]
    fn aliases_of_aliases_and_depth_are_bounded() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..9 {
            let previous = n - 1;
            let items = vec![format!("*a{previous}"); 10].join(", ");
            text += &format!("a{n}: &a{n} [{items}]\n");
        }
        assert!(parse(&text).unwrap_err().what.contains("more than 100000 values"));
        let deep = "[".repeat(DEPTH_MAX + 2) + &"]".repeat(DEPTH_MAX + 2);
        assert!(parse(&deep).unwrap_err().what.contains("deeper"), "{deep}");
        assert!(parse(&"x".repeat(FILE_MAX_BYTES + 1)).unwrap_err().what.contains("longer"));
    }

    #[test]
    fn what_is_no_document_is_refused_where_it_goes_wrong() {
        for (text, line, what) in [
            ("a: 1\na: 2\n", 2, "already, in line 1"),
            ("a: [1\n", 2, "not YAML"),
            ("a: 1\n---\nb: 2\n", 3, "second document"),
            ("? [a]\n: b\n", 1, "a list cannot be a key"),
            ("a: &a\n  b: *a\n", 2, "part of"),
            ("a:\n  <<: 5\n", 2, "merged"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.what.contains(what) && error.at.line == line, "{text:?}: {error}");
        }
        assert_eq!(parse("").unwrap().value, Value::Null);
    }
}
