//! Where a flow or a connection id would go, by the table that is in the kernel. Pure.
//!
//! It asks the same library that the programs are made of, with the same table, so that it says what they do.

use std::net::{IpAddr, SocketAddr};

use berth_protocol::link::{Explanation, Place, Question, Transport};
use berth_steer::cid::Unroutable;
use berth_steer::decide::{Decision, Reason, Verdict, decide_flow};
use berth_steer::flow::{Addresses, Flow};
use berth_steer::headers::protocol;
use berth_steer::quic::DestinationId;
use berth_steer::table::Table;

/// The answer to a question.
pub fn explain(table: &Table, question: &Question) -> Explanation {
    match question {
        Question::Flow { source, destination, transport } => {
            explain_flow(table, *source, *destination, *transport)
        }
        Question::ConnectionId { id } => explain_id(table, id),
    }
}

fn explain_flow(
    table: &Table,
    source: SocketAddr,
    destination: SocketAddr,
    transport: Transport,
) -> Explanation {
    let nowhere = |reason: Reason, because: &str| answer(table, None, reason.word(), because.to_owned());
    let Some(addresses) = addresses(source.ip(), destination.ip()) else {
        return nowhere(Reason::Malformed, "the two addresses are not of one family");
    };
    if !table.addresses.contains(addresses.destination()) {
        return nowhere(Reason::NotOurs, "the destination is no address of this node");
    }
    let flow = Flow {
        addresses,
        source_port: source.port(),
        destination_port: destination.port(),
        protocol: match transport {
            Transport::Tcp => protocol::TCP,
            Transport::Udp => protocol::UDP,
        },
    };
    let decision = decide_flow(flow, DestinationId::None, table);
    let because = match decision.reason {
        Reason::NoCore => "no data plane takes new flows".to_owned(),
        _ => {
            let hash = flow.hash(&table.hash_key);
            let id = match transport {
                Transport::Udp => ", unless a packet carries a connection id of ours",
                Transport::Tcp => "",
            };
            format!(
                "its hash is {hash:016x}, and the ring gives that to this core of the newest generation{id}"
            )
        }
    };
    answer(table, place(table, decision), decision.reason.word(), because)
}

fn addresses(source: IpAddr, destination: IpAddr) -> Option<Addresses> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Some(Addresses::V4 { source: source.octets(), destination: destination.octets() })
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Some(Addresses::V6 { source: source.octets(), destination: destination.octets() })
        }
        _ => None,
    }
}

fn explain_id(table: &Table, id: &[u8]) -> Explanation {
    let by_flow = |because: &str| {
        answer(table, None, Reason::Udp.word(), format!("{because}: its packets go by their flow"))
    };
    let there = match table.configs.decode(&table.aes, id) {
        Ok(routable) => routable.destination,
        Err(Unroutable::Length) => return by_flow("ids of ours have 17 bytes"),
        Err(Unroutable::Reserved) => return by_flow("its config bits are 0b111, which no id of ours has"),
        Err(Unroutable::LengthBits) => return by_flow("its first octet does not tell its length"),
        Err(Unroutable::UnknownConfig) => return by_flow("its codepoint is not in use, or not any more"),
        Err(Unroutable::Check) => return by_flow("its check fails: it was made up, or with another key"),
    };
    let cpu = table.cpu(there.generation, there.core);
    let (server, generation) = (there.server, there.generation.get());
    let place =
        Some(Place { server, generation, core: there.core, cpu: cpu.filter(|_| server == table.server) });
    let alive = if server == table.server { cpu.is_some() } else { table.knows_server(server) };
    if alive {
        return answer(table, place, Reason::ConnectionId.word(), "the id names this place".to_owned());
    }
    let because = "the id names a place that is not there: its packets go by their flow".to_owned();
    answer(table, place, Reason::DeadConnectionId.word(), because)
}

fn place(table: &Table, decision: Decision) -> Option<Place> {
    match decision.verdict {
        Verdict::Pass => None,
        Verdict::Here { generation, core, cpu } => {
            Some(Place { server: table.server, generation: generation.get(), core, cpu: Some(cpu) })
        }
        Verdict::Elsewhere { server } => Some(Place { server, generation: 0, core: 0, cpu: None }),
    }
}

fn answer(table: &Table, place: Option<Place>, rule: &str, because: String) -> Explanation {
    Explanation { table: table.version, place, rule: rule.to_owned(), because }
}

#[cfg(test)]
mod tests {
    use berth_fixtures::site;

    use super::*;

    fn flow(source: &str, destination: &str, transport: Transport) -> Question {
        let [source, destination] = [source, destination].map(|address| address.parse().unwrap());
        Question::Flow { source, destination, transport }
    }

    #[test]
    fn a_flow_goes_where_the_ring_says() {
        let table = site::table();
        for (source, destination) in
            [("198.51.100.9:5000", "192.0.2.1:443"), ("[2001:db8:f::9]:5000", "[2001:db8::1]:443")]
        {
            for transport in [Transport::Tcp, Transport::Udp] {
                let said = explain(&table, &flow(source, destination, transport));
                assert_eq!((said.table, said.rule.as_str()), (1, transport.word()));
                assert!(said.place.is_some(), "{said:?}");
            }
        }
        let said = explain(&table, &flow("198.51.100.9:5000", "203.0.113.77:443", Transport::Tcp));
        assert_eq!((said.place, said.rule.as_str()), (None, "not_ours"));
        let said = explain(&table, &flow("198.51.100.9:5000", "[2001:db8::1]:443", Transport::Tcp));
        assert_eq!((said.place, said.rule.as_str()), (None, "malformed"));
    }

    #[test]
    fn an_id_names_its_place_or_says_why_it_does_not() {
        let table = site::table();
        let there = site::destination(site::SERVER, 1, site::OLD);
        let id = |there| Question::ConnectionId { id: site::id(site::encrypted(), there).to_vec() };
        let said = explain(&table, &id(there));
        let cpu = Some(site::cpu(1));
        let (server, generation) = (site::SERVER, site::OLD);
        assert_eq!(said.place, Some(Place { server, generation, core: 1, cpu }));
        assert_eq!(said.rule, "connection_id");
        let said = explain(&table, &id(site::destination(site::SERVER, 9, site::OLD)));
        assert_eq!((said.rule.as_str(), said.place.unwrap().cpu), ("dead_connection_id", None));
        for (id, word) in [(vec![1; 8], "17 bytes"), (vec![0xff; 17], "0b111"), (vec![0x10; 17], "codepoint")]
        {
            let said = explain(&table, &Question::ConnectionId { id });
            assert!(said.because.contains(word) && said.place.is_none(), "{said:?}");
        }
    }
}
