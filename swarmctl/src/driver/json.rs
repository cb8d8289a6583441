//! The engine's JSON, read with patience: what is missing, null or of another type is as if it was not said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value};

/// A text that is not empty.
pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A list of texts, or a set of them.
pub(super) fn texts<T: FromIterator<String>>(value: &Value) -> T {
    list(value).filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

/// The elements of a list.
pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Texts by key.
pub(super) fn map(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// A count. Swarm keeps some of them in numbers without a sign and shows them with one.
pub(super) fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// A time in nanoseconds.
pub(super) fn time(value: &Value) -> Option<Duration> {
    value.as_u64().map(Duration::from_nanos)
}

/// A time as the engine counts it.
pub(super) fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// A set as a list, or nothing.
pub(super) fn sorted(set: &BTreeSet<String>) -> Value {
    set.iter().cloned().collect()
}

/// The part under a key, to be written to; made if it is not there.
pub(super) fn part<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    &mut value[key]
}

/// Sets what is under a key; nothing means that it is not said.
pub(super) fn put(value: &mut Value, key: &str, what: Option<impl Into<Value>>) {
    match what {
        Some(what) => *part(value, key) = what.into(),
        None => drop(value.as_object_mut().map(|object| object.remove(key))),
    }
}

/// The elements of a list that are to be there: one that the engine has already stays just as it is.
pub(super) fn rebuilt<T: PartialEq>(
    before: &Value,
    read: impl Fn(&Value) -> Option<T>,
    wanted: impl IntoIterator<Item = (T, Value)>,
) -> Value {
    let as_it_is = |wanted: &T| list(before).find(|it| read(it).as_ref() == Some(wanted)).cloned();
    wanted.into_iter().map(|(wanted, made)| as_it_is(&wanted).unwrap_or(made)).collect()
}
