//! The document: any JSON value, of limited length.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use crate::Error;

/// Bytes of the document, if nobody says otherwise: Firecracker's limit of a request's body.
pub const STORE_BYTES_DEFAULT: usize = 51200;

/// The document. A handle: clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    limit: usize,
    document: Arc<Mutex<Option<Value>>>,
}

/// In what form the guest gets a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// JSON.
    Json,
    /// As EC2's service answers: a string as it is, an object as the list of its keys.
    Text,
}

impl Store {
    /// A store in which nothing was put yet, for at most `limit` bytes of JSON.
    pub fn new(limit: usize) -> Self {
        Self { limit, document: Arc::default() }
    }

    /// The document; an empty object if there is none.
    pub fn get(&self) -> Value {
        match self.lock().as_ref() {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(document) => document.clone(),
        }
    }

    /// Replaces the document.
    pub fn put(&self, document: Value) -> Result<(), Error> {
        self.check_length(&document)?;
        *self.lock() = Some(document);
        Ok(())
    }

    /// Changes the document by a merge patch (RFC 7396), or leaves it as it is.
    pub fn patch(&self, patch: Value) -> Result<(), Error> {
        let mut document = self.lock();
        let mut patched = document.clone().ok_or(Error::NotInitialized)?;
        merge(&mut patched, patch);
        self.check_length(&patched)?;
        *document = Some(patched);
        Ok(())
    }

    /// What lies at `path`, a JSON pointer (RFC 6901) that may repeat slashes and end with one. A
    /// store in which nothing was put holds null.
    pub(crate) fn lookup(&self, path: &str, form: Form) -> Result<String, Error> {
        let pointer = single_slashes(path);
        let pointer = pointer.strip_suffix('/').unwrap_or(&pointer);
        let document = self.lock();
        let document = document.as_ref().unwrap_or(&Value::Null);
        let value = document.pointer(pointer).ok_or_else(|| Error::NotFound(path.to_owned()))?;
        match (form, value) {
            (Form::Json, value) => Ok(value.to_string()),
            (Form::Text, Value::String(text)) => Ok(text.clone()),
            (Form::Text, Value::Object(map)) => Ok(keys(map)),
            (Form::Text, Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) => {
                Err(Error::UnsupportedType)
            }
        }
    }

    fn check_length(&self, document: &Value) -> Result<(), Error> {
        if document.to_string().len() > self.limit { Err(Error::LimitExceeded) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Value>> {
        self.document.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Merges `patch` into `target`: null removes a key, and what is no object replaces. Values that
/// were parsed are at most 128 deep, and a merge is never deeper than the deeper of its parts.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(map) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(&key);
        } else {
            merge(map.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// A line for each key; a slash after those that have keys of their own.
fn keys(map: &Map<String, Value>) -> String {
    let line = |(key, value): (&String, &Value)| {
        if value.is_object() { format!("{key}/") } else { key.clone() }
    };
    map.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The path with one slash wherever it has several.
pub(crate) fn single_slashes(path: &str) -> String {
    let mut single = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !single.ends_with('/') {
            single.push(character);
        }
    }
    single
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_there_cannot_be_patched() {
        let store = Store::new(STORE_BYTES_DEFAULT);
        assert_eq!(store.get(), json!({}));
        assert_eq!(store.patch(json!({"a": 1})), Err(Error::NotInitialized));
        store.put(Value::Null).unwrap();
        assert_eq!(store.get(), json!({}));
        store.patch(json!({"a": 1})).unwrap();
        assert_eq!(store.get(), json!({"a": 1}));
    }

    #[test]
    fn clones_share_the_document() {
        let store = Store::new(STORE_BYTES_DEFAULT);
        store.clone().put(json!(1)).unwrap();
        assert_eq!(store.get(), json!(1));
    }

    /// RFC 7396, appendix A: (target, patch, result).
    #[test]
    fn merge_patches() {
        let check = |target: Value, patch: Value, expected: Value| {
            let store = Store::new(STORE_BYTES_DEFAULT);
            store.put(target.clone()).unwrap();
            store.patch(patch.clone()).unwrap();
            assert_eq!(store.get(), expected, "{target} with {patch}");
        };
        check(json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"}));
        check(json!({"a": "b"}), json!({"a": null}), json!({}));
        check(json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"}));
        check(json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]}));
        check(
            json!({"a": {"b": "c"}}),
            json!({"a": {"b": "d", "c": null}}),
            json!({"a": {"b": "d"}}),
        );
        check(json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]}));
        check(json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"]));
        check(json!({"a": "b"}), json!(["c"]), json!(["c"]));
        check(json!({"a": "foo"}), json!("bar"), json!("bar"));
        check(json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1}));
        check(json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"}));
        check(json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}}));
    }

    #[test]
    fn the_limit_counts_the_text_and_leaves_what_was() {
        let exact = json!({"a": "xxxx"});
        let store = Store::new(exact.to_string().len());
        store.put(exact.clone()).unwrap();
        for too_long in [json!({"a": "xxxxx"}), json!({"b": 1})] {
            assert_eq!(store.patch(too_long), Err(Error::LimitExceeded));
        }
        assert_eq!(store.put(json!({"a": "xxxx", "b": 1})), Err(Error::LimitExceeded));
        assert_eq!(store.get(), exact);
        store.patch(json!({"a": "", "b": 1})).unwrap_err();
        store.patch(json!({"a": null, "b": 1})).unwrap();
    }

    #[test]
    fn lookups() {
        let store = Store::new(STORE_BYTES_DEFAULT);
        let unsupported = "Cannot retrieve value. The value has an unsupported type.";
        let check = |path: &str, form: Form, expected: &str| {
            let found = store.lookup(path, form).unwrap_or_else(|error| error.to_string());
            assert_eq!(found, expected, "{path} as {form:?}");
        };
        check("/", Form::Json, "null");
        check("/", Form::Text, unsupported);
        check("/a", Form::Json, "Resource not found: /a.");
        store
            .put(json!({
                "text": "x\n\"y\"",
                "empty": "",
                "object": {"b": {"c": 1}, "a": [], "~/": "odd"},
                "list": ["first", 2],
                "number": 12.12, "truth": true, "nothing": null,
            }))
            .unwrap();
        check("/text", Form::Json, r#""x\n\"y\"""#);
        check("/text", Form::Text, "x\n\"y\"");
        check("/text/", Form::Text, "x\n\"y\"");
        check("///text//", Form::Text, "x\n\"y\"");
        check("/empty", Form::Json, "\"\"");
        check("/empty", Form::Text, "");
        check("/object", Form::Json, r#"{"a":[],"b":{"c":1},"~/":"odd"}"#);
        check("/object", Form::Text, "a\nb/\n~/");
        check("/object/b/c", Form::Json, "1");
        check("/object/~0~1", Form::Text, "odd");
        check("/list", Form::Json, r#"["first",2]"#);
        check("/list/0", Form::Text, "first");
        check("/list/1", Form::Text, unsupported);
        check("/list/2", Form::Text, "Resource not found: /list/2.");
        check("/list/-1", Form::Text, "Resource not found: /list/-1.");
        for path in ["/list", "/number", "/truth", "/nothing"] {
            check(path, Form::Text, unsupported);
        }
        check("/number", Form::Json, "12.12");
        check("/nothing", Form::Json, "null");
        check("//no//where", Form::Json, "Resource not found: //no//where.");
        check("text", Form::Json, "Resource not found: text.");
    }
}
