//! The paths and methods of the admin API, in one table: requests are matched with it, and a test holds it against
//! `docs/openapi.json`, so that what is answered and what is written cannot part.
//!
//! HEAD is answered wherever GET is, and has no row of its own.

use super::deployments::Deployments;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    OpenApi,
    Metrics,
    Live,
    Ready,
    Status,
    ExplainFlow,
    ExplainRequest,
    Deployments(Deployments),
}

/// A path, and what its methods do.
pub(super) struct Path {
    /// As OpenAPI writes it: a segment in braces stands for a name.
    pub(super) template: &'static str,
    pub(super) methods: &'static [(&'static str, Call)],
}

/// All of them.
pub(super) const PATHS: &[Path] = &[
    path("/openapi.json", &[("GET", Call::OpenApi)]),
    path("/metrics", &[("GET", Call::Metrics)]),
    path("/health/live", &[("GET", Call::Live)]),
    path("/health/ready", &[("GET", Call::Ready)]),
    path("/v1/status", &[("GET", Call::Status)]),
    path("/v1/explain/flow", &[("GET", Call::ExplainFlow)]),
    path("/v1/explain/request", &[("GET", Call::ExplainRequest)]),
    path(
        "/v1/scripts",
        &[("GET", Call::Deployments(Deployments::Scripts)), ("POST", Call::Deployments(Deployments::Upload))],
    ),
    path("/v1/scripts/{id}", &[("DELETE", Call::Deployments(Deployments::RemoveScript))]),
    path("/v1/zones", &[("GET", Call::Deployments(Deployments::Zones))]),
    path(
        "/v1/zones/{name}",
        &[
            ("GET", Call::Deployments(Deployments::Zone)),
            ("PUT", Call::Deployments(Deployments::Deploy)),
            ("DELETE", Call::Deployments(Deployments::RemoveZone)),
        ],
    ),
    path("/v1/zones/{name}/rollback", &[("POST", Call::Deployments(Deployments::RollBack))]),
    path("/v1/routes", &[("GET", Call::Deployments(Deployments::Routes))]),
    path(
        "/v1/objects",
        &[
            ("GET", Call::Deployments(Deployments::Objects)),
            ("POST", Call::Deployments(Deployments::ImportObject)),
        ],
    ),
    path("/v1/objects/snapshot", &[("POST", Call::Deployments(Deployments::Snapshot))]),
    path("/v1/objects/{id}", &[("GET", Call::Deployments(Deployments::Object))]),
    path("/v1/objects/{id}/move", &[("POST", Call::Deployments(Deployments::MoveObject))]),
    path("/v1/objects/{id}/evict", &[("POST", Call::Deployments(Deployments::EvictObject))]),
    path("/v1/objects/{id}/export", &[("GET", Call::Deployments(Deployments::ExportObject))]),
    path("/v1/tail", &[("GET", Call::Deployments(Deployments::Tail))]),
];

const fn path(template: &'static str, methods: &'static [(&'static str, Call)]) -> Path {
    Path { template, methods }
}

/// Why no call is meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// There is no such path.
    Path,
    /// The path has other methods: these.
    Method(String),
}

/// What is asked for, and the name that the path has in it; empty if it has none.
pub(super) fn find<'p>(method: &str, asked: &'p str) -> Result<(Call, &'p str), Unknown> {
    let method = if method == "HEAD" { "GET" } else { method };
    let mut found = PATHS.iter().filter_map(|path| Some((path, name_in(path.template, asked)?)));
    let (path, name) = found.next().ok_or(Unknown::Path)?;
    match path.methods.iter().find(|(known, _)| *known == method) {
        Some((_, call)) => Ok((*call, name)),
        None => Err(Unknown::Method(allowed(path))),
    }
}

/// The methods of a path, as a client is told them.
fn allowed(path: &Path) -> String {
    let names = path.methods.iter().map(|(method, _)| if *method == "GET" { "GET, HEAD" } else { method });
    names.collect::<Vec<_>>().join(", ")
}

/// The name in a path, if the path is one of this template.
fn name_in<'p>(template: &str, asked: &'p str) -> Option<&'p str> {
    let Some((before, rest)) = template.split_once('{') else {
        return (template == asked).then_some("");
    };
    let (_, after) = rest.split_once('}')?;
    let name = asked.strip_prefix(before)?.strip_suffix(after)?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_with_its_name_or_its_methods_are_told() {
        let found = |method, path| find(method, path);
        assert_eq!(found("GET", "/v1/status"), Ok((Call::Status, "")));
        assert_eq!(found("HEAD", "/v1/zones"), Ok((Call::Deployments(Deployments::Zones), "")));
        assert_eq!(found("PUT", "/v1/zones/shop"), Ok((Call::Deployments(Deployments::Deploy), "shop")));
        let back = (Call::Deployments(Deployments::RollBack), "shop");
        assert_eq!(found("POST", "/v1/zones/shop/rollback"), Ok(back));
        let methods = |text: &str| Err(Unknown::Method(text.to_owned()));
        assert_eq!(found("PATCH", "/v1/zones/shop"), methods("GET, HEAD, PUT, DELETE"));
        assert_eq!(found("GET", "/v1/scripts/0a"), methods("DELETE"));
        for path in
            ["/", "/v1", "/v1/zones/", "/v1/zones/a/b", "/v1/zones//rollback", "/v1/status/", "/V1/status"]
        {
            assert_eq!(found("GET", path), Err(Unknown::Path), "{path}");
        }
    }
}
