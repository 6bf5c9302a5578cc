//! Objects under load while the node is killed, and while they move: what clients of all cores saw is judged as a whole.

use std::time::Instant;

use berth_tests::dice::Dice;
use berth_tests::node::{Driver, Node, at_full_scale, wait_until};
use berth_tests::objects::{Client, Histories, Load, ask, move_to, probe, seed, shown};
use berth_tests::on_both_drivers;

use crate::common;

on_both_drivers!([]; kills_at_random_moments_lose_nothing_and_repeat_nothing,
    registers_and_lists_are_what_they_promise_while_they_move, requests_of_one_connection_keep_their_order);
on_both_drivers!(["nghttp"]; streams_of_one_connection_begin_their_turns_in_order);

/// Clients at a time: more than one for each core, whatever the machine.
const CLIENTS: u64 = 8;

/// Has clients work until `meanwhile` is over, and tells what they did.
fn under_load<T>(load: &Load, seed: u64, meanwhile: impl FnOnce() -> T) -> (Histories, T) {
    std::thread::scope(|scope| {
        let client = |number: u64| move || load.work(seed.wrapping_add(number + 1));
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(client(number))).collect();
        let stop = load.stop_on_drop();
        let outcome = meanwhile();
        drop(stop);
        let mut done = Histories::default();
        clients.into_iter().for_each(|client| done.take(client.join().unwrap()));
        (done, outcome)
    })
}

fn kills_at_random_moments_lose_nothing_and_repeat_nothing(driver: Driver) {
    let seed = seed("BERTH_KILL_SEED");
    println!("BERTH_KILL_SEED={seed}");
    let mut dice = Dice::new(seed);
    let mut node = probe(driver, common());
    let (clock, rounds) = (Instant::now(), if at_full_scale() { 50 } else { 4 });
    let mut done = Histories::default();
    let mut cut = 0;
    for round in 0..rounds {
        // The same objects for some rounds, so that what older rounds left is looked at, and not so long that it is much.
        let names = (0..2).map(|object| format!("{}-{object}", round / 4)).collect();
        let load = Load::new(node.listener(0), clock, names, round * 1_000_000 + 1);
        let until = 20 + dice.roll(600);
        let (told, ()) = under_load(&load, dice.roll(1 << 40), || {
            wait_until("there is something to lose", || load.answered() >= until);
            // Anywhere between two moments of the node.
            let spin = Instant::now();
            let micros = u128::from(dice.roll(3000));
            while spin.elapsed().as_micros() < micros {}
            node.signal(libc::SIGKILL);
        });
        cut += told.unknown();
        done.take(told);
        node = node.kill_and_restart();
        done.take(Load::new(node.listener(0), clock, load.names().to_vec(), u64::MAX / 2).read_all());
    }
    assert!(cut > 0, "some requests were under way in {rounds} kills");
    println!("{} requests, {cut} of unknown outcome", done.operations());
    done.check().unwrap();
    node.finish();
}

fn registers_and_lists_are_what_they_promise_while_they_move(driver: Driver) {
    let seed = seed("BERTH_MOVE_SEED");
    println!("BERTH_MOVE_SEED={seed}");
    let node = probe(driver, common());
    let cores = node.numbers("objects_started").len() as u64;
    let names = (0..2).map(|object| object.to_string()).collect();
    let load = Load::new(node.listener(0), Instant::now(), names, 1);
    let rounds = if at_full_scale() { 60 } else { 8 };
    let (mut done, ()) = under_load(&load, seed, || {
        wait_until("all objects live", || node.number("objects_started") >= 6 && load.answered() > 100);
        for _ in 0..rounds {
            for name in load.objects() {
                let to = (shown(&node, &name)["core"].as_u64().unwrap() + 1) % cores;
                let (status, said) = move_to(&node, &name, to);
                assert_eq!(status, if cores == 1 { 409 } else { 200 }, "{said}");
            }
            let before = load.answered();
            wait_until("clients are served there", || load.answered() > before + 20);
        }
    });
    assert_eq!(done.unknown(), 0, "no request failed, of {}", done.operations());
    assert_eq!(node.number("object_moves"), if cores == 1 { 0 } else { rounds * 6 });
    // On a machine that stands still for ten seconds one may be given up in between.
    assert!(node.number("objects_started") <= node.number("objects_ended") + 6, "one instance at a time");
    done.take(load.read_all());
    done.check().unwrap();
    node.finish();
}

/// The words of a list.
fn list(node: &Node, name: &str) -> Vec<u64> {
    let (status, said) = ask(node, name, "get/l");
    assert_eq!(status, 200, "{said}");
    said.split(' ').map(|word| word.parse().unwrap()).collect()
}

fn requests_of_one_connection_keep_their_order(driver: Driver) {
    let node = probe(driver, common());
    let cores = node.numbers("objects_started").len() as u64;
    assert_eq!(ask(&node, "ada", "append/l/0").0, 200);
    let mut client = Client::connect(node.listener(0)).unwrap();
    for round in 0..10 {
        // All at once, without waiting for an answer, and the object moves meanwhile.
        let words = round * 50 + 1..=round * 50 + 50;
        for word in words.clone() {
            client.send("ada", &format!("append/l/{word}"), "").unwrap();
        }
        let to = (shown(&node, "ada")["core"].as_u64().unwrap() + 1) % cores;
        let (status, said) = move_to(&node, "ada", to);
        assert!(cores == 1 || status == 200, "{said}");
        words.for_each(|word| assert_eq!(client.receive(), Some((200, "appended".to_owned())), "{word}"));
    }
    assert_eq!(list(&node, "ada"), (0..=500).collect::<Vec<_>>());
    node.finish();
}

fn streams_of_one_connection_begin_their_turns_in_order(driver: Driver) {
    let node = probe(driver, common());
    assert_eq!(ask(&node, "ada", "append/l/0").0, 200);
    for core in 0..node.numbers("objects_started").len() as u64 {
        let moved = move_to(&node, "ada", core);
        assert_eq!(shown(&node, "ada")["core"], core, "{moved:?}");
        let last = *list(&node, "ada").last().unwrap();
        let urls = (last + 1..=last + 40).map(|word| node.http(&format!("/probe/ada/append/l/{word}")));
        let urls: Vec<String> = urls.collect();
        let words: Vec<&str> = ["--null-out"].into_iter().chain(urls.iter().map(String::as_str)).collect();
        berth_tests::clients::call("nghttp", &words).ok();
        assert_eq!(list(&node, "ada"), (0..=last + 40).collect::<Vec<_>>());
    }
    node.finish();
}
