//! The router against a reference: a list of routes, each tried, the matches sorted by the documented order.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

fn target(raw: &str) -> Target {
    Target::parse(Bytes::copy_from_slice(raw.as_bytes())).unwrap()
}

fn host(raw: &str) -> Host<'_> {
    Host::parse(raw.as_bytes()).unwrap()
}

/// A table whose values are its patterns, as written.
fn table(routes: &[(&'static str, &'static str)]) -> Router<String> {
    let routes =
        routes.iter().map(|(host, path)| (Pattern::parse(host, path).unwrap(), format!("{host}{path}")));
    Router::new(routes).unwrap()
}

/// The pattern that wins for `http://{name}{path}`, as written; "-" if none does.
fn winner(table: &Router<String>, name: &str, path: &str) -> String {
    table.find(Some(&host(name)), &target(path)).map_or("-".to_owned(), |found| found.value().clone())
}

#[test]
fn the_most_specific_host_wins_and_falls_through_to_the_next() {
    let table = table(&[
        ("*", "/*"),
        ("*.example", "/a"),
        ("*.shop.example", "/a"),
        ("eu.shop.example", "/a"),
        ("eu.shop.example", "/only-here"),
    ]);
    assert_eq!(winner(&table, "EU.shop.example.:80", "/a"), "eu.shop.example/a");
    assert_eq!(winner(&table, "us.shop.example", "/a"), "*.shop.example/a");
    assert_eq!(winner(&table, "a.b.shop.example", "/a"), "*.shop.example/a");
    assert_eq!(winner(&table, "shop.example", "/a"), "*.example/a");
    assert_eq!(winner(&table, "example", "/a"), "*/*");
    assert_eq!(winner(&table, "notshop.example", "/a"), "*.example/a");
    assert_eq!(winner(&table, "eu.shop.example", "/b"), "*/*");
    assert_eq!(winner(&table, "us.shop.example", "/only-here"), "*/*");
}

#[test]
fn a_literal_comes_before_a_parameter_and_that_before_a_wildcard() {
    let table = table(&[("*", "/*"), ("*", "/a/*"), ("*", "/a/:x"), ("*", "/a/b"), ("*", "/:x/b")]);
    assert_eq!(winner(&table, "h", "/a/b"), "*/a/b");
    assert_eq!(winner(&table, "h", "/a/c"), "*/a/:x");
    assert_eq!(winner(&table, "h", "/a/c/d"), "*/a/*");
    assert_eq!(winner(&table, "h", "/c/b"), "*/:x/b");
    assert_eq!(winner(&table, "h", "/c/c"), "*/*");
}

#[test]
fn a_dead_end_does_not_hide_another_route() {
    let table = table(&[("*", "/a/:x/c"), ("*", "/:y/b/d"), ("*", "/:y/*")]);
    assert_eq!(winner(&table, "h", "/a/b/c"), "*/a/:x/c");
    assert_eq!(winner(&table, "h", "/a/b/d"), "*/:y/b/d");
    assert_eq!(winner(&table, "h", "/a/b/e"), "*/:y/*");
}

#[test]
fn a_prefix_matches_below_its_slash_only() {
    let table = table(&[("*", "/static/*")]);
    assert_eq!(winner(&table, "h", "/static/a/b"), "*/static/*");
    assert_eq!(winner(&table, "h", "/static/"), "*/static/*");
    assert_eq!(winner(&table, "h", "/static"), "-");
    assert_eq!(winner(&table, "h", "/statics/a"), "-");
}

#[test]
fn slashes_at_the_end_and_in_a_row_count() {
    let table = table(&[("*", "/a"), ("*", "/b/"), ("*", "/c/:x")]);
    assert_eq!(winner(&table, "h", "/a"), "*/a");
    assert_eq!(winner(&table, "h", "/a/"), "-");
    assert_eq!(winner(&table, "h", "//a"), "-");
    assert_eq!(winner(&table, "h", "/b/"), "*/b/");
    assert_eq!(winner(&table, "h", "/b"), "-");
    assert_eq!(winner(&table, "h", "/c/"), "-");
    assert_eq!(winner(&table, "h", "/c/x"), "*/c/:x");
}

#[test]
fn another_spelling_does_not_walk_around_a_route() {
    let table = table(&[("*", "/admin/*"), ("*", "/caf\u{e9}"), ("*", "/*")]);
    assert_eq!(winner(&table, "h", "/%61dm%69n/x"), "*/admin/*");
    assert_eq!(winner(&table, "h", "/public/../admin/x"), "*/admin/*");
    assert_eq!(winner(&table, "h", "/caf%c3%a9"), "*/caf\u{e9}");
    assert_eq!(winner(&table, "h", "/caf\u{e9}"), "*/caf\u{e9}");
    assert_eq!(winner(&table, "h", "http://other/%61dmin/?x"), "*/admin/*");
    assert_eq!(winner(&table, "h", "/admin%2Fx"), "*/*");
}

#[test]
fn requests_without_host_or_path_have_their_place() {
    let table = table(&[("*", "/*"), ("a.example", "/x")]);
    assert_eq!(table.find(None, &target("/x")).unwrap().value(), "*/*");
    assert!(table.find(Some(&host("a.example")), &target("*")).is_none());
    assert!(Router::<()>::new([]).unwrap().find(None, &target("/")).is_none());
}

#[test]
fn a_match_tells_what_it_captured() {
    let table = table(&[("*", "/counter/:name/*"), ("*", "/:from/to/:to"), ("*", "/")]);
    let path = target("/counter/%41da%20l%2Fx/edit//now?a=b");
    let found = table.find(None, &path).unwrap();
    assert_eq!(found.parameter("name"), Some("Ada%20l%2Fx"));
    assert_eq!(found.parameter("other"), None);
    assert_eq!(found.rest(), Some("edit//now"));

    let path = target("/a/to/b");
    let found = table.find(None, &path).unwrap();
    assert_eq!(found.parameters().collect::<Vec<_>>(), [("from", "a"), ("to", "b")]);
    assert_eq!(found.rest(), None);

    let path = target("/counter/x/");
    assert_eq!(table.find(None, &path).unwrap().rest(), Some(""));
}

#[test]
fn routes_of_one_shape_are_an_error_that_names_both() {
    let pattern = |path| Pattern::parse("shop.example", path).unwrap();
    let routes = [pattern("/a/:x/*"), pattern("/b"), pattern("/a/:other/*"), pattern("/%62")];
    let errors = Router::new(routes.into_iter().zip(0..)).unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "route 3 (shop.example/a/:other/*) matches the same requests as route 1 (shop.example/a/:x/*); \
             remove one of them",
            "route 4 (shop.example/b) matches the same requests as route 2 (shop.example/b); remove one of them",
        ]
    );
}

#[test]
fn the_table_is_bounded() {
    let routes =
        |count: usize| (0..count).map(|index| (Pattern::parse("*", &format!("/{index}")).unwrap(), ()));
    assert!(Router::new(routes(ROUTES_MAX)).is_ok());
    let errors = Router::new(routes(ROUTES_MAX + 1)).unwrap_err();
    assert_eq!(errors, [RouterError::TooManyRoutes { count: ROUTES_MAX + 1 }]);
}

/// Every way to have a literal or a parameter at each of `levels`, as far as patterns may have parameters: for a path
/// of literals that ends otherwise, all of them must be tried.
fn all_pairs(levels: u32) -> Vec<(Pattern, u32)> {
    (0..1u32 << levels)
        .filter(|bits| bits.count_ones() as usize <= PATTERN_PARAMETERS_MAX)
        .map(|bits| {
            let segment =
                |level| if bits >> level & 1 == 1 { format!("/:p{level}") } else { "/a".to_owned() };
            let path: String = (0..levels).map(segment).collect();
            (Pattern::parse("*.example", &(path + "/end")).unwrap(), bits)
        })
        .collect()
}

#[test]
fn the_worst_table_takes_as_many_steps_as_computed() {
    let table = Router::new(all_pairs(8)).unwrap();
    let dead_end = target(&format!("{}/end/x", "/a".repeat(8)));
    let explained = table.explain(Some(&host("x.example")), &dead_end);
    assert!(explained.won().is_none());
    assert_eq!(explained.steps(), (767, table.steps_max()));
    let full = target(&format!("{}/end", "/a".repeat(8)));
    assert_eq!(table.find(Some(&host("x.example")), &full).map(|found| *found.value()), Some(0));
}

#[test]
fn a_table_that_could_be_slow_is_refused() {
    let errors = Router::new(all_pairs(10)).unwrap_err();
    let [RouterError::TooManySteps { host, steps }] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!(host.to_string(), "*.example");
    assert!(*steps > STEPS_MAX);
}

#[test]
fn steps_add_up_over_the_hosts_that_match() {
    let table =
        table(&[("*", "/a"), ("*.example", "/a/b"), ("*.shop.example", "/a"), ("shop.example", "/a")]);
    // *.shop.example: 2 nodes, *.example: 3, *: 2.
    assert_eq!(table.steps_max(), 7);
    assert_eq!(table.explain(Some(&host("x.shop.example")), &target("/a/x")).steps().0, 6);
}

#[test]
fn an_explanation_names_winner_losers_and_reasons() {
    let table = table(&[
        ("*", "/*"),
        ("*.example", "/:class/:name"),
        ("*.example", "/counter/:name"),
        ("*", "/other"),
    ]);
    let path = target("/counter/%61da");
    let explained = table.explain(Some(&host("Shop.Example")), &path);
    assert_eq!(
        explained.to_string(),
        "shop.example /counter/ada goes to *.example/counter/:name\n\
         \x20 :name = ada\n\
         \x20 *.example/:class/:name matches too, and loses: at segment 1, the literal \"counter\" comes before the \
         parameter :class\n\
         \x20 */* matches too, and loses: host *.example is more specific than *\n\
         \x20 steps: 3, at most 7 for any request\n"
    );
    assert_eq!(explained.hosts().iter().map(ToString::to_string).collect::<Vec<_>>(), ["*.example", "*"]);
}

#[test]
fn an_explanation_says_where_the_search_ended() {
    let table = table(&[("shop.example", "/a")]);
    let path = target("/b");
    assert_eq!(
        table.explain(Some(&host("shop.example")), &path).to_string(),
        "shop.example /b matches no route\n  no path of host shop.example matches\n  steps: 1, at most 2 for any request\n"
    );
    assert_eq!(
        table.explain(None, &path).to_string(),
        "(no host) /b matches no route\n  no host pattern matches the host\n  steps: 0, at most 2 for any request\n"
    );
}

#[test]
fn a_table_is_shared_between_cores() {
    fn is_shared<T: Send + Sync>(_: &T) {}
    is_shared(&Arc::new(table(&[])));
}

/// A route of the reference, kept as it was made up.
#[derive(Clone, Debug, PartialEq)]
struct Plain {
    host: &'static str,
    /// A literal as it is, a parameter as ":", the wildcard as "*".
    path: Vec<&'static str>,
}

impl Plain {
    fn pattern(&self) -> Pattern {
        let segments = self.path.iter().enumerate().map(|(index, &segment)| match segment {
            ":" => format!("/:p{index}"),
            _ => format!("/{segment}"),
        });
        Pattern::parse(self.host, &segments.collect::<String>()).unwrap()
    }

    fn matches(&self, name: Option<&str>, segments: &[&str]) -> bool {
        let host_matches = match (self.host, name) {
            ("*", _) => true,
            (_, None) => false,
            (pattern, Some(name)) => match pattern.strip_prefix('*') {
                Some(suffix) => name.ends_with(suffix),
                None => pattern == name,
            },
        };
        let length_matches = match self.path.last() {
            Some(&"*") => segments.len() >= self.path.len(),
            _ => segments.len() == self.path.len(),
        };
        let fits = |(&pattern, &segment): (&&str, &&str)| match pattern {
            "*" => true,
            ":" => !segment.is_empty(),
            literal => literal == segment,
        };
        host_matches && length_matches && self.path.iter().zip(segments).all(fits)
    }

    /// Less is better.
    fn rank(&self) -> (usize, isize, Vec<usize>) {
        let host_kind = match self.host {
            "*" => 2,
            suffix if suffix.starts_with('*') => 1,
            _ => 0,
        };
        let kind = |segment: &&str| match *segment {
            "*" => 2,
            ":" => 1,
            _ => 0,
        };
        (host_kind, -(self.host.len() as isize), self.path.iter().map(kind).collect())
    }
}

fn plain_route() -> impl Strategy<Value = Plain> {
    let host = select(vec!["*", "*", "*.x", "*.y.x", "y.x", "x", "z.y.x"]);
    let segments = prop::collection::vec(select(vec!["a", "b", ":", ":", "a%2Fb"]), 0..5);
    let last = select(vec!["a", ":", "*", "", "*"]);
    (host, segments, last).prop_map(|(host, mut path, last)| {
        path.push(last);
        Plain { host, path }
    })
}

/// At most one route of each shape, so that a table can be built.
fn plain_table() -> impl Strategy<Value = Vec<Plain>> {
    prop::collection::vec(plain_route(), 0..40).prop_map(|routes| {
        let mut distinct: Vec<Plain> = Vec::new();
        for route in routes {
            if !distinct.contains(&route) {
                distinct.push(route);
            }
        }
        distinct
    })
}

/// A path in some spelling, and the segments that it means.
fn spelled_path() -> impl Strategy<Value = (String, Vec<&'static str>)> {
    let spelled = select(vec![
        ("a", Some("a")),
        ("%61", Some("a")),
        ("b", Some("b")),
        ("%62", Some("b")),
        ("c", Some("c")),
        ("a%2Fb", Some("a%2Fb")),
        ("%61%2fb", Some("a%2Fb")),
        ("a\\b", Some("a%5Cb")),
        (".", None),
        ("x/..", None),
    ]);
    let end = select(vec![("a", "a"), ("%62", "b"), ("", ""), ("c", "c")]);
    (prop::collection::vec(spelled, 0..5), end).prop_map(|(middle, end)| {
        let raw: String = middle.iter().map(|(raw, _)| format!("/{raw}")).collect();
        let meant = middle.iter().filter_map(|(_, meant)| *meant).chain([end.1]).collect();
        (format!("{raw}/{}", end.0), meant)
    })
}

fn spelled_host() -> impl Strategy<Value = (Option<&'static str>, Option<&'static str>)> {
    select(vec![
        (None, None),
        (Some("x"), Some("x")),
        (Some("Y.X"), Some("y.x")),
        (Some("z.y.x.:80"), Some("z.y.x")),
        (Some("q.z.y.x"), Some("q.z.y.x")),
        (Some("q.x"), Some("q.x")),
        (Some("yx"), Some("yx")),
        (Some("[::1]"), Some("[::1]")),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn the_router_agrees_with_trying_every_route(
        routes in plain_table(),
        requests in prop::collection::vec((spelled_host(), spelled_path()), 1..8),
        swaps in prop::collection::vec((any::<Index>(), any::<Index>()), 0..40),
    ) {
        let table = Router::new(routes.iter().map(|route| (route.pattern(), route.clone()))).unwrap();
        let mut shuffled = routes.clone();
        for (one, other) in swaps.iter().filter(|_| !routes.is_empty()) {
            shuffled.swap(one.index(routes.len()), other.index(routes.len()));
        }
        let shuffled = Router::new(shuffled.into_iter().map(|route| (route.pattern(), route))).unwrap();
        prop_assert_eq!(table.steps_max(), shuffled.steps_max());

        for ((raw_host, name), (raw_path, segments)) in requests {
            let mut expected: Vec<&Plain> =
                routes.iter().filter(|route| route.matches(name, &segments)).collect();
            expected.sort_by_key(|route| route.rank());

            let (host, target) = (raw_host.map(host), target(&raw_path));
            let found = table.find(host.as_ref(), &target);
            prop_assert_eq!(found.as_ref().map(Match::value), expected.first().copied());
            let found_shuffled = shuffled.find(host.as_ref(), &target);
            prop_assert_eq!(found_shuffled.as_ref().map(Match::value), expected.first().copied());

            if let (Some(found), Some(best)) = (&found, expected.first()) {
                for (name, value) in found.parameters() {
                    let index: usize = name[1..].parse().unwrap();
                    prop_assert_eq!((best.path[index], value), (":", segments[index]));
                }
                let rest = (best.path.last() == Some(&"*")).then(|| segments[best.path.len() - 1..].join("/"));
                prop_assert_eq!(found.rest(), rest.as_deref());
            }

            let explained = table.explain(host.as_ref(), &target);
            let named = explained.won().map(|won| won.pattern).into_iter();
            let named: Vec<Pattern> = named.chain(explained.lost().iter().map(|lost| lost.pattern)).cloned().collect();
            prop_assert_eq!(named, expected.iter().map(|route| route.pattern()).collect::<Vec<_>>());
            prop_assert!(explained.steps().0 <= table.steps_max());
        }
    }

    #[test]
    fn a_repeated_shape_is_always_found(routes in plain_table(), again in any::<Index>()) {
        prop_assume!(!routes.is_empty());
        let again = routes[again.index(routes.len())].clone();
        let result = Router::new(routes.iter().chain([&again]).map(|route| (route.pattern(), ())));
        let is_same_shape = matches!(result.unwrap_err()[..], [RouterError::SameShape { second, .. }] if second == routes.len() + 1);
        prop_assert!(is_same_shape);
    }

    #[test]
    fn any_bytes_pass_the_fuzz_target(data in prop::collection::vec(any::<u8>(), 0..80)) {
        fuzz_logic(&data);
    }

    #[test]
    fn likely_bytes_pass_the_fuzz_target(data in r"(\[::1\]|(a\.)?(shop\.)?example|[ -~]{0,6})\n(http://h)?(/(a|b|c|d|%2e|\.|%2F|%41|;|\\|[^\n]){0,2}){0,5}(\?.{0,4})?") {
        fuzz_logic(data.as_bytes());
    }
}
