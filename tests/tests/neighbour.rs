//! A paced neighbour on the core of a node under attack is served without an error. How fast is
//! printed; `neighbour`, the program, measures it, and no test does.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of a test fail as it does")]

use std::time::Duration;

use berth_tests::attack::Node;
use berth_tests::attack::floods::Flood;
use berth_tests::attack::neighbour::measure;

#[test]
fn a_neighbour_of_another_address_sees_no_error_beside_any_attack() {
    for flood in Flood::ALL {
        let mut node = Node::start_for_speed();
        let outcome = measure(&node, flood, Duration::from_millis(400));
        println!("{flood:?}: {:.1} times its own p99: {outcome:?}", outcome.ratio());
        assert!(outcome.attacked.requests > 0 && outcome.rounds > 0, "{flood:?}: {outcome:?}");
        assert_eq!(outcome.attacked.errors, 0, "{flood:?}: {outcome:?}");
        assert!(node.is_alive(), "{flood:?}");
        node.wait_for("connections_open", 0);
    }
}
