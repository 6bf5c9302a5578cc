//! `/openapi.json`: the document of the admin API, as it lies in `docs/`. It is written by hand, and held against the code
//! by the tests here and by the stories, which read a node's answers with it.

/// The document.
pub(super) const DOCUMENT: &str = include_str!("../../../docs/openapi.json");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::super::paths::{PATHS, Unknown, find};
    use super::*;
    use crate::zones::Document;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    fn keys(value: &Value) -> BTreeSet<&str> {
        value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect()
    }

    /// Path, method and operation, of all.
    fn operations(document: &Value) -> Vec<(String, String, Value)> {
        let mut all = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                all.push((path.clone(), method.to_uppercase(), operation.clone()));
            }
        }
        all
    }

    #[test]
    fn what_is_written_is_answered_and_what_is_answered_is_written() {
        let document = document();
        let written: BTreeSet<(String, String)> =
            operations(&document).into_iter().map(|(path, method, _)| (path, method)).collect();
        let methods =
            PATHS.iter().flat_map(|path| path.methods.iter().map(move |(method, _)| (path, method)));
        let answered = methods.map(|(path, method)| (path.template.to_owned(), (*method).to_owned()));
        assert_eq!(written, answered.collect());

        for path in keys(&document["paths"]) {
            let asked = path.replace("{id}", "0a").replace("{name}", "shop");
            for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
                let is_written = written.contains(&(path.to_owned(), method.to_owned()));
                match find(method, &asked) {
                    Ok(_) => assert!(is_written, "{method} {path}"),
                    Err(Unknown::Method(_)) => assert!(!is_written, "{method} {path}"),
                    Err(Unknown::Path) => panic!("{path} is not answered"),
                }
            }
        }
    }

    /// All references of a value.
    fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(entries) => entries.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_is_openapi() {
        let document = document();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
        assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in &found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} is nowhere");
        }
        for kind in ["schemas", "parameters", "responses"] {
            for name in keys(&document["components"][kind]) {
                assert!(found.contains(&*format!("#/components/{kind}/{name}")), "{kind} {name} is not used");
            }
        }
        let tags: Vec<&Value> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
        let mut ids = BTreeSet::new();
        for (path, method, operation) in operations(&document) {
            assert!(
                operation["summary"].is_string() && tags.contains(&&operation["tags"][0]),
                "{method} {path}"
            );
            assert!(ids.insert(operation["operationId"].to_string()), "{method} {path}: its id is taken");
            check_parameters(&document, &path, &operation);
            check_responses(&document, &operation);
        }
    }

    fn follow<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
        let reference = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
        reference.map_or(value, |pointer| document.pointer(pointer).unwrap())
    }

    /// The names in a path are those of its parameters there.
    fn check_parameters(document: &Value, path: &str, operation: &Value) {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let parameters: Vec<&Value> = parameters.map(|parameter| follow(document, parameter)).collect();
        let mut in_path = BTreeSet::new();
        for parameter in parameters {
            let name = parameter["name"].as_str().unwrap();
            assert!(parameter["schema"].is_object() && parameter["description"].is_string(), "{path} {name}");
            match parameter["in"].as_str().unwrap() {
                "path" => {
                    assert_eq!(parameter["required"], true, "{path} {name}");
                    in_path.insert(name);
                }
                place => assert_eq!(place, "query", "{path} {name}"),
            }
        }
        let names = path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap());
        assert_eq!(in_path, names.collect(), "{path}");
    }

    /// Every answer is described, and those that refuse are problems, but for health.
    fn check_responses(document: &Value, operation: &Value) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let response = follow(document, response);
            let kinds = keys(&response["content"]);
            assert!(response["description"].is_string(), "{status}");
            match status.as_str() {
                "200" | "201" => assert_eq!(kinds.len(), 1, "{operation}"),
                "204" => assert!(kinds.is_empty(), "{operation}"),
                "503" if kinds.contains("text/plain") => {}
                "default" | "400" | "404" | "409" | "413" | "503" => {
                    assert_eq!(kinds, BTreeSet::from(["application/problem+json"]), "{status} {operation}");
                }
                other => panic!("{other} is no status of this API"),
            }
        }
        assert!(operation["responses"]["default"].is_object(), "{operation}");
    }

    /// The fields that the code would take there, as it tells who writes another one.
    fn taken(document: &Value) -> BTreeSet<String> {
        let said = Document::parse(document.to_string().as_bytes()).unwrap_err().to_string();
        let (_, fields) = said.split_once("expected one of ").unwrap();
        fields.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_fields_of_a_zone_are_those_that_are_read() {
        let document = document();
        let worker = json!({"script": "", "routes": []});
        let with = |name: &str, value: Value| {
            let mut worker = worker.clone();
            worker[name] = value;
            json!({"hosts": [], "workers": {"front": worker}})
        };
        for (schema, taken) in [
            ("ZoneDocument", taken(&json!({"?": 1}))),
            ("Worker", taken(&with("?", json!(1)))),
            ("Limits", taken(&with("limits", json!({"?": 1})))),
        ] {
            let schema = &document["components"]["schemas"][schema];
            assert_eq!(schema["additionalProperties"], false);
            assert_eq!(keys(&schema["properties"]), taken.iter().map(String::as_str).collect());
        }
    }
}
