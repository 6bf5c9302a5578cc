//! What a node says of itself: where a request would go, what its API is, and what a deployment has brought.

use std::process::Command;

use berth_tests::clients::{berth, curl, python, run};
use berth_tests::node::{Driver, Node, Plan, binary, route};
use berth_tests::on_both_drivers;
use berth_tests::workers::{deploy, guests, upload, zone};
use serde_json::{Map, Value, json};

use crate::common;

on_both_drivers!(["curl"]; explain_request_says_what_happens, explain_request_follows_deployments_and_reloads,
    the_api_answers_what_its_document_says_and_the_explain_paths_too);
on_both_drivers!([]; explain_request_tells_what_is_wrong_with_a_question);
on_both_drivers!(["websockets"]; deploy_tells_in_json_and_shows_its_progress_on_a_terminal);
on_both_drivers!([]; commands_that_read_explain_themselves);

fn explain(node: &Node, url: &str) -> Value {
    let said = berth(node, &["explain", "request", "GET", url, "--json"]).ok();
    serde_json::from_str(&said).unwrap()
}

/// A zone with a worker for some paths and an origin, one with a worker alone, and the configuration's routes.
fn deploy_all(node: &Node, origin: &Node) -> String {
    let id = upload(node, guests());
    let origin = format!("http://{}", origin.listener(0));
    let worker = |routes: Value| json!({"front": {"script": id, "routes": routes, "limits": {"cpu": "10s"}}});
    let site = json!({"hosts": ["*.example"], "origin": origin, "workers": worker(json!(["/hello"]))});
    deploy(node, "site", &site);
    let shop = json!({"hosts": ["shop.example"], "workers": worker(json!(["/hello", "/head/:name"]))});
    deploy(node, "shop", &shop);
    id
}

fn explain_request_says_what_happens(driver: Driver) {
    let origin =
        Plan::new(driver, common()).and(&route("/page", r#"respond = { body = "a page\n" }"#)).start();
    let node = Plan::new(driver, common()).start();
    let id = deploy_all(&node, &origin);
    for (host, path, rule, zone, pattern, answer) in [
        ("shop.example", "/hello", "worker", "shop", "/hello", "200 hello\n"),
        // Routes are matched on a normal form; the guest gets what was sent, and knows no such path.
        ("SHOP.example.", "/%68ell%6f?a=b", "worker", "shop", "/hello", "404 "),
        ("shop.example", "/x/../hello", "worker", "shop", "/hello", "404 "),
        ("shop.example", "/hello/", "nothing", "shop", "", "404 "),
        ("shop.example", "/page", "nothing", "shop", "", "404 "),
        ("a.b.example", "/hello", "worker", "site", "/hello", "200 hello\n"),
        ("a.example", "/p%61ge", "origin", "site", "", "200 a page\n"),
        ("a.example", "/page", "origin", "site", "", "200 a page\n"),
        ("example", "/page", "nothing", "", "", "404 "),
        ("other.test", "/", "configuration", "", "*/", "200 hello\n"),
        ("[::1]", "/echo", "configuration", "", "*/echo", "200 "),
    ] {
        let said = explain(&node, &format!("http://{host}:{}{path}", node.listener(0).port()));
        assert_eq!(said["rule"], rule, "{host}{path}: {said}");
        assert_eq!(said["zone"]["name"].as_str().unwrap_or_default(), zone, "{host}{path}: {said}");
        assert_eq!(said["route"]["pattern"].as_str().unwrap_or_default(), pattern, "{host}{path}: {said}");
        if rule == "worker" {
            assert_eq!(said["worker"]["script"], id, "{said}");
        }
        let (calls, sent) = (node.number("worker_calls"), node.number("outgoing_requests"));
        let header = format!("host: {host}");
        let arguments = ["--path-as-is", "--globoff", "--header", &header, "--write-out", "\n%{http_code}"];
        let got = curl(&[&arguments[..], &[&node.http(path)]].concat()).ok();
        let (body, status) = got.rsplit_once('\n').unwrap();
        let shown = if status == "404" { "404 ".to_owned() } else { format!("{status} {body}") };
        assert_eq!(shown, answer, "{host}{path}");
        assert_eq!(node.number("worker_calls") - calls, u64::from(rule == "worker"), "{host}{path}");
        assert_eq!(node.number("outgoing_requests") - sent, u64::from(rule == "origin"), "{host}{path}");
    }
    let text = berth(&node, &["explain", "request", "GET", "https://shop.example/head/ada"]).ok();
    let begin =
        format!("GET https://shop.example/head/ada: worker front of zone shop, version 1, script {id}\n");
    assert!(text.starts_with(&begin) && text.contains("\n  :name = ada\n"), "{text}");
    assert!(text.contains("\n  host *.example matches too, and loses: "), "{text}");
    node.finish();
    origin.finish();
}

fn explain_request_follows_deployments_and_reloads(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let url = "http://site.example/echo";
    assert_eq!(explain(&node, url)["route"]["action"], "echo");
    let id = upload(&node, guests());
    for version in 1..=2 {
        deploy(&node, "site", &zone(&["site.example"], &id));
        assert_eq!(explain(&node, url)["zone"]["version"], version);
    }
    berth(&node, &["zones", "rollback", "site"]).ok();
    assert_eq!(explain(&node, url)["zone"]["version"], 1);
    berth(&node, &["zones", "remove", "site"]).ok();
    let text =
        format!("{}{}", node.text(), route("/:what", "respond = { status = 204 }\nhost = \"site.example\""));
    assert_eq!(node.reload(&text), "done");
    let said = explain(&node, url);
    assert_eq!(said["route"]["pattern"], "site.example/:what", "{said}");
    assert_eq!(
        (&said["route"]["action"], &said["lost"][0]["pattern"]),
        (&"respond".into(), &"*/echo".into())
    );
    node.finish();
}

fn explain_request_tells_what_is_wrong_with_a_question(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    for (method, url, code, word) in [
        ("G T", "http://h/", 2, "a method is a word"),
        ("GET", "/hello", 2, "write the whole URL"),
        ("GET", "ftp://h/", 2, "write the whole URL"),
        ("CONNECT", "http://h/", 1, "goes where GET goes"),
        (
            "GET",
            "http://h/a/%2e%2e/b",
            1,
            "percent-encoded; send the resolved path; a request for it is answered with 400",
        ),
        ("GET", "http://h:port/", 1, "the port is not a number"),
        ("GET", "http://h/a b", 1, "escape it"),
    ] {
        let said = berth(&node, &["explain", "request", method, url]);
        assert_eq!(said.code, code, "{}", said.all());
        assert!(said.stderr.contains(word) && said.stdout.is_empty(), "{}", said.all());
    }
    for query in ["", "?method=GET", "?url=http://h/", "?method=GET&url=h"] {
        let (status, body) = node.get(&format!("/v1/explain/request{query}"));
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &problem["type"]), (400, &"urn:berth:bad-request".into()), "{query}: {body}");
    }
    node.finish();
}

/// What is wrong with a value, by its schema; a field that the schema does not have is wrong, too.
fn mistake(document: &Value, schema: &Value, value: &Value, place: &str) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return mistake(document, document.pointer(&reference[1..]).unwrap(), value, place);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let wrong: Vec<String> =
            choices.iter().filter_map(|choice| mistake(document, choice, value, place)).collect();
        return (wrong.len() + 1 != choices.len())
            .then(|| format!("{place} is one of {choices:?}: {wrong:?}"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
    if !kinds.contains(&kind.into()) {
        return Some(format!("{place} is {value}, not of {kinds:?}"));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        return Some(format!("{place} is {value}, none of {}", schema["enum"]));
    }
    let empty = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            return Some(format!("{place} has no {name}"));
        }
    }
    let is_open = schema.get("properties").or(schema.get("additionalProperties")).is_none();
    let of_field = |(name, value): (&String, &Value)| {
        let known = properties.get(name).or(schema.get("additionalProperties")).filter(|it| it.is_object());
        match known {
            Some(schema) => mistake(document, schema, value, &format!("{place}.{name}")),
            None => (!is_open).then(|| format!("{place}.{name} is not in the document")),
        }
    };
    let fields = value.as_object().into_iter().flatten().find_map(of_field);
    let of_entry = |entry| mistake(document, &schema["items"], entry, &format!("{place}[]"));
    fields.or_else(|| value.as_array().into_iter().flatten().find_map(of_entry))
}

/// One call, held against the document: the status and the kind of its answer are there, and the answer fits.
fn hold(node: &Node, document: &Value, method: &str, path: &str, template: &str, body: &str, expected: u16) {
    let url = format!("http://{}{path}", node.admin());
    let mut arguments = vec!["--request", method, "--write-out", "\n%{http_code} %{content_type}", &url];
    if !body.is_empty() {
        arguments.extend(["--data-binary", body]);
    }
    let got = curl(&arguments).ok();
    let (text, end) = got.rsplit_once('\n').unwrap();
    let (status, kind) = end.split_once(' ').unwrap();
    assert_eq!(status, expected.to_string(), "{method} {path}: {text}");
    let responses = &document["paths"][template][method.to_lowercase()]["responses"];
    let mut response = responses.get(status).unwrap_or(&responses["default"]);
    if let Some(reference) = response["$ref"].as_str() {
        response = document.pointer(&reference[1..]).unwrap();
    }
    assert!(response["description"].is_string(), "{method} {template} has no {status}");
    if status == "204" {
        return assert!(text.is_empty() && response.get("content").is_none(), "{method} {path}: {text}");
    }
    let schema = &response["content"][kind.split(';').next().unwrap()]["schema"];
    assert!(schema.is_object(), "{method} {template} {status} has no {kind}");
    let value = if kind.contains("json") { serde_json::from_str(text).unwrap() } else { Value::from(text) };
    assert_eq!(mistake(document, schema, &value, template), None, "{method} {path}: {text}");
    if method == "GET" {
        let head = curl(&["--head", &url]).ok().to_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {status}")) && head.contains(kind), "{path}: {head}");
    }
}

fn the_api_answers_what_its_document_says_and_the_explain_paths_too(driver: Driver) {
    let origin = Plan::new(driver, common()).start();
    let node = Plan::new(driver, common()).start();
    let (_, text) = node.get("/openapi.json");
    assert_eq!(
        text,
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json")).unwrap()
    );
    let document: Value = serde_json::from_str(&text).unwrap();
    let id = deploy_all(&node, &origin);
    let full = json!({"tenant": "t", "hosts": ["full.example"], "origin": "http://127.0.0.1:1", "workers": {"front": {
        "script": id, "routes": ["/*"], "env": {"A": "b"}, "secrets": {"K": "v"},
        "limits": {"memory": "8MiB", "cpu": "1s", "handles": 9}}}});
    assert_eq!(
        mistake(&document, &json!({"$ref": "#/components/schemas/ZoneDocument"}), &full, "zone"),
        None
    );
    let component = node.folder().join("guests.wasm");
    std::fs::write(&component, guests()).unwrap();
    let (component, full) = (format!("@{}", component.display()), full.to_string());
    let (used, unused) = (format!("/v1/scripts/{id}"), format!("/v1/scripts/{}", "0".repeat(64)));
    let explained = "/v1/explain/request";
    for (method, path, template, body, status) in [
        ("GET", "/openapi.json", "/openapi.json", "", 200),
        ("GET", "/metrics", "/metrics", "", 200),
        ("GET", "/health/live", "/health/live", "", 200),
        ("GET", "/health/ready", "/health/ready", "", 200),
        ("GET", "/v1/status", "/v1/status", "", 200),
        ("GET", "/v1/explain/flow?id=00", "/v1/explain/flow", "", 503),
        ("GET", "/v1/explain/flow", "/v1/explain/flow", "", 400),
        ("GET", "/v1/explain/request?method=GET&url=http://shop.example/head/a", explained, "", 200),
        ("GET", "/v1/explain/request?method=GET&url=http://a.example/", explained, "", 200),
        ("GET", "/v1/explain/request?method=GET&url=http://a/ws", explained, "", 200),
        ("GET", "/v1/explain/request?method=GET&url=http://a/none", explained, "", 200),
        ("GET", explained, explained, "", 400),
        ("POST", "/v1/scripts", "/v1/scripts", &component, 201),
        ("POST", "/v1/scripts", "/v1/scripts", "no component", 400),
        ("GET", "/v1/scripts", "/v1/scripts", "", 200),
        ("DELETE", &used, "/v1/scripts/{id}", "", 409),
        ("DELETE", &unused, "/v1/scripts/{id}", "", 404),
        ("PUT", "/v1/zones/full", "/v1/zones/{name}", &full, 200),
        ("PUT", "/v1/zones/full", "/v1/zones/{name}", &full, 200),
        ("PUT", "/v1/zones/full", "/v1/zones/{name}", "{}", 400),
        ("GET", "/v1/zones", "/v1/zones", "", 200),
        ("GET", "/v1/zones/full", "/v1/zones/{name}", "", 200),
        ("GET", "/v1/zones/none", "/v1/zones/{name}", "", 404),
        ("PATCH", "/v1/zones/full", "/v1/zones/{name}", "", 405),
        ("POST", "/v1/zones/full/rollback", "/v1/zones/{name}/rollback", "", 200),
        ("POST", "/v1/zones/full/rollback", "/v1/zones/{name}/rollback", "{\"version\": 9}", 404),
        ("POST", "/v1/zones/full/rollback", "/v1/zones/{name}/rollback", "[", 400),
        ("GET", "/v1/routes", "/v1/routes", "", 200),
        ("DELETE", "/v1/zones/full", "/v1/zones/{name}", "", 204),
        ("DELETE", "/v1/zones/full", "/v1/zones/{name}", "", 404),
    ] {
        if status == 405 {
            assert_eq!(node.ask(method, path, b"").0, 405, "{method} {path}");
        } else {
            hold(&node, &document, method, path, template, body, status);
        }
    }
    let head = curl(&["--head", &format!("http://{}/v1/tail", node.admin())]).ok().to_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("application/x-ndjson"), "{head}");
    node.finish();
    origin.finish();
}

/// A project whose component is there already.
fn project(node: &Node) -> String {
    let folder = node.folder().join("project");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("guests.wasm"), guests()).unwrap();
    let text = "name = \"site\"\nzone = \"site.localhost\"\n[workers.front]\ncomponent = \"guests.wasm\"\n\
        routes = [\"/*\"]\n[build]\ncommand = \"echo the build speaks\"\n";
    std::fs::write(folder.join("berth.toml"), text).unwrap();
    folder.display().to_string()
}

fn deploy_tells_in_json_and_shows_its_progress_on_a_terminal(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let path = project(&node);
    let said = berth(&node, &["deploy", &path, "--json"]);
    assert_eq!(
        said.stderr, "the build speaks\n",
        "no progress where nobody looks, and no words of the build in the result"
    );
    let said: Value = serde_json::from_str(&said.ok()).unwrap();
    let id = upload(&node, guests());
    let port = node.listener(0).port();
    assert_eq!(
        said,
        json!({"project": "site", "objects": {}, "zone": "site", "version": 1, "scripts": {"front": id}, "urls": said["urls"]})
    );
    assert_eq!(said["urls"][0], format!("http://site.localhost:{port}/"));

    let script = "import os, pty, sys\nsys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let mut terminal = Command::new(python());
    terminal.args(["-c", script]).arg(binary()).args(["deploy", &path]);
    terminal.env("TERM", "xterm").env("BERTH_ADMIN", format!("http://{}", node.admin()));
    let seen = run(&mut terminal).ok();
    for part in [
        "building site",
        "the build speaks",
        "uploading front [",
        "the node compiles front",
        "deploying site",
    ] {
        assert!(seen.contains(part), "{part} is missing: {seen}");
    }
    assert!(seen.contains("zone site version 2"), "{seen}");
    let refused = berth(&node, &["deploy", "/no/such/project"]);
    assert!(refused.code == 1 && refused.stderr.contains("`berth new` makes a project"), "{}", refused.all());
    node.finish();
}

fn commands_that_read_explain_themselves(driver: Driver) {
    let node = Plan::new(driver, common()).start();
    let id = upload(&node, guests());
    deploy(&node, "site", &zone(&["site.example"], &id));
    for arguments in [
        &["zones", "list"][..],
        &["zones", "show", "site"],
        &["scripts", "list"],
        &["scripts", "show", &id[..9]],
        &["routes", "list"],
        &["status"],
        &["explain", "request", "GET", "http://site.example/"],
    ] {
        let text = berth(&node, arguments).ok();
        assert!(
            text.ends_with('\n') && serde_json::from_str::<Value>(&text).is_err(),
            "{arguments:?}: {text}"
        );
        let json = berth(&node, &[arguments, &["--json"]].concat()).ok();
        let json: Result<Value, _> = serde_json::from_str(&json);
        assert!(json.is_ok_and(|json| json.is_object()), "{arguments:?}");
    }
    for (arguments, code, word) in [
        (&["zones"][..], 2, "list"),
        (&["zones", "show"], 2, "NAME"),
        (&["zones", "show", "No Name"], 2, "invalid value"),
        (&["zones", "list", "--admin", "localhost:9090"], 2, "write http://ADDRESS:PORT"),
        (&["scripts", "show", "xyz"], 2, "an id has 64 digits"),
        (&["zones", "show", "none"], 1, "there is no zone none; `berth zones list`"),
        (&["zones", "rollback", "none"], 1, "there is no zone none; `berth zones list`"),
        (&["zones", "rollback", "site", "--to", "7"], 1, "version 7 is not kept; these are: 1"),
        (&["zones", "remove", "none"], 1, "there is no zone none"),
        (&["scripts", "show", "0000"], 1, "`berth scripts list` shows them"),
        (&["scripts", "remove", &id], 1, "of these zones use it: site; it can go when"),
    ] {
        let said = berth(&node, arguments);
        assert_eq!(said.code, code, "{arguments:?}: {}", said.all());
        assert!(said.stderr.contains(word), "{arguments:?}: {}", said.stderr);
    }
    let script = "\"$0\" config reference | head -1; \"$0\" zones list | true; echo \"${PIPESTATUS[@]}\"";
    let piped = run(Command::new("bash")
        .args(["-c", script])
        .arg(binary())
        .env("BERTH_ADMIN", format!("http://{}", node.admin())));
    assert!(piped.stdout.ends_with("0 0\n") && piped.stderr.is_empty(), "{}", piped.all());
    node.finish();
}
