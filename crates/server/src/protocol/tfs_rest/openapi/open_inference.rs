//! The paths of the Open Inference Protocol. Its requests name the tensors and their datatypes, so that one description
//! holds for all models.

use serde_json::{Value, json};

use super::document::Document;
use super::paths::parameter;

const SECTION: &str = include_str!("open_inference.json");

/// Adds the paths of the server and, if there are models, those of a model. `model` is the parameter for its name.
pub(super) fn add(document: &mut Document, model: Option<&Value>) {
    let section: Value = serde_json::from_str(SECTION).expect("a test reads it");
    let members = |name: &str| section[name].as_object().into_iter().flatten();
    document.add_tag(section["tag"].clone());
    for (name, schema) in members("schemas") {
        document.schema(name, schema.clone());
    }
    for (path, item) in members("server_paths") {
        add_item(document, path, item, &[], "");
    }
    let Some(model) = model else { return };
    let version =
        parameter("version", &json!({"description": "A number or a label.", "type": "string", "minLength": 1}));
    for (base, parameters, suffix) in [
        ("/v2/models/{model}", vec![model.clone()], ""),
        ("/v2/models/{model}/versions/{version}", vec![model.clone(), version], "_version"),
    ] {
        for (end, item) in members("model_paths") {
            add_item(document, &format!("{base}{end}"), item, &parameters, suffix);
        }
    }
}

fn add_item(document: &mut Document, path: &str, item: &Value, parameters: &[Value], suffix: &str) {
    for (method, operation) in item.as_object().into_iter().flatten() {
        let mut operation = operation.clone();
        operation["parameters"] = parameters.into();
        let id = format!("{}{suffix}", operation["operationId"].as_str().unwrap_or_default());
        document.operation(path, method, &id, operation);
    }
}
