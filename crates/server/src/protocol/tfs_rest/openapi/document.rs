//! A builder of documents: paths, shared schemas, unique names.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value, json};

use servable_model::error::Code;

/// The constant part: the paths of the server, and the schemas that all models share.
const FRAME: &str = include_str!("frame.json");

/// An `OpenAPI` document that grows.
pub(super) struct Document {
    frame: Value,
    needs_key: bool,
    operation_ids: HashSet<String>,
}

impl Document {
    /// Creates the document of a server without models. `needs_key` adds API keys.
    pub(super) fn new(needs_key: bool) -> Self {
        let mut frame: Value = serde_json::from_str(FRAME).expect("a test reads it");
        frame["info"]["version"] = env!("CARGO_PKG_VERSION").into();
        frame["components"]["responses"] =
            statuses().into_iter().map(|(status, names)| response(status, &names)).collect();
        if needs_key {
            frame["security"] = json!([{"bearer": []}, {"header": []}]);
            frame["components"]["securitySchemes"] = json!({
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            });
        }
        Self { frame, needs_key, operation_ids: HashSet::new() }
    }

    /// Adds a heading for operations.
    pub(super) fn tag(&mut self, name: &str, description: &str) {
        self.add_tag(json!({"name": name, "description": description}));
    }

    /// Adds a heading from JSON.
    pub(super) fn add_tag(&mut self, tag: Value) {
        self.list("tags").push(tag);
    }

    /// Adds a shared parameter, and returns a reference to it.
    pub(super) fn parameter(&mut self, name: &str, parameter: Value) -> Value {
        self.frame["components"]["parameters"][name] = parameter;
        json!({"$ref": format!("#/components/parameters/{name}")})
    }

    /// Adds a shared schema, and returns a reference to it. If another schema has the name, a similar one is used.
    pub(super) fn schema(&mut self, name: &str, schema: Value) -> Value {
        let schemas = self.object("/components/schemas");
        let name = distinct(&identifier(name, "."), |name| schemas.get(name).is_some_and(|taken| *taken != schema));
        schemas.insert(name.clone(), schema);
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// Adds an operation, with a unique identifier.
    pub(super) fn operation(&mut self, path: &str, method: &str, id: &str, mut operation: Value) {
        let id = distinct(&identifier(id, "_"), |id| self.operation_ids.contains(id));
        operation["operationId"] = id.clone().into();
        self.operation_ids.insert(id);
        self.object("/paths").entry(path).or_insert_with(|| json!({}))[method] = operation;
    }

    /// The document as JSON.
    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        if self.needs_key {
            self.add_refusals();
        }
        self.frame.to_string().into_bytes()
    }

    /// Adds the answers of operations to requests without a sufficient key.
    fn add_refusals(&mut self) {
        let items = self.object("/paths").values_mut().filter_map(Value::as_object_mut);
        for operation in items.flat_map(Map::values_mut).filter(|operation| operation.get("security").is_none()) {
            for (status, response) in failures(&[Code::Unauthenticated, Code::PermissionDenied]) {
                operation["responses"][status] = response;
            }
        }
    }

    fn object(&mut self, pointer: &str) -> &mut Map<String, Value> {
        self.frame.pointer_mut(pointer).and_then(Value::as_object_mut).expect("the frame has it")
    }

    fn list(&mut self, name: &str) -> &mut Vec<Value> {
        self.frame[name].as_array_mut().expect("the frame has it")
    }
}

/// References to the answers for these errors.
pub(super) fn failures(codes: &[Code]) -> Map<String, Value> {
    let statuses = codes.iter().map(|code| code.http_status().0);
    statuses
        .map(|status| (status.to_string(), json!({"$ref": format!("#/components/responses/Status{status}")})))
        .collect()
}

/// The names of the codes behind each HTTP status of an error.
fn statuses() -> BTreeMap<u16, Vec<&'static str>> {
    let mut statuses = BTreeMap::<_, Vec<_>>::new();
    for code in (1..).take(Code::COUNT - 1).map(Code::from_number) {
        statuses.entry(code.http_status().0).or_default().push(code.name());
    }
    statuses
}

fn response(status: u16, names: &[&str]) -> (String, Value) {
    let schema = json!({"schema": {"$ref": "#/components/schemas/Error"}});
    let response = json!({"description": names.join(", "), "content": {"application/json": schema}});
    (format!("Status{status}"), response)
}

/// The text without characters that are invalid in names of components or functions.
fn identifier(text: &str, also: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || also.contains(c);
    text.chars().map(|c| if is_plain(c) { c } else { '_' }).collect()
}

/// The name, with a number appended if it is taken.
fn distinct(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|number| format!("{name}_{number}"));
    std::iter::once(name.to_owned()).chain(numbered).find(|name| !is_taken(name)).expect("there is no end of numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_become_equal_get_numbers() {
        let mut document = Document::new(false);
        let schema = |document: &mut Document, name, kind| document.schema(name, json!({"type": kind}));
        let first = schema(&mut document, "a b.Rows", "array");
        assert_eq!(first, json!({"$ref": "#/components/schemas/a_b.Rows"}));
        assert_eq!(schema(&mut document, "a_b.Rows", "array"), first, "the same schema under the same name");
        assert_eq!(schema(&mut document, "a_b.Rows", "string"), json!({"$ref": "#/components/schemas/a_b.Rows_2"}));

        document.operation("/a%20b", "get", "status_a b", json!({}));
        document.operation("/a_b", "get", "status_a_b", json!({}));
        assert_eq!(document.frame["paths"]["/a_b"]["get"]["operationId"], "status_a_b_2");
    }

    #[test]
    fn every_error_has_its_answer() {
        let document = Document::new(false);
        let responses = document.frame["components"]["responses"].as_object().expect("an object");
        assert_eq!(responses["Status400"]["description"], "INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE");
        let failures = failures(&[Code::NotFound, Code::Unavailable]);
        assert_eq!(failures.keys().collect::<Vec<_>>(), ["404", "503"]);
        assert!(responses.contains_key("Status404") && responses.contains_key("Status503"));
    }
}
