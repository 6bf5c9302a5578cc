//! What ids say, what is refused and why, and how often chance makes an id that says something.

use std::collections::HashSet;
use std::vec::Vec;
use std::{format, vec};

use berth_fixtures::dice::SplitMix64;
use proptest::prelude::*;

use super::*;
use crate::aes::AES_TABLES;

const OLD: Codepoint = Codepoint(2);
const NEW: Codepoint = Codepoint(5);

/// The key of the draft's test vectors.
const DRAFT_KEY: u128 = 0x8f95_f092_4576_5f80_2569_34e5_0c66_207f;

fn encrypted(key: u128) -> Config {
    Config::Encrypted(AesKey::new(key.to_be_bytes()))
}

fn only(codepoint: Codepoint, config: Config) -> Configs {
    let mut configs = Configs::new();
    configs.set(codepoint, config);
    configs
}

/// Every story that does not depend on the layout is told in both.
fn both_layouts() -> [(&'static str, Configs); 2] {
    [("plaintext", only(OLD, Config::Plaintext)), ("encrypted", only(OLD, encrypted(DRAFT_KEY)))]
}

fn destination(server: u16, core: u8, generation: u8) -> Destination {
    Destination { server, core, generation: Generation::new(generation).unwrap() }
}

fn decode(configs: &Configs, id: &[u8]) -> Result<Routable, Unroutable> {
    configs.decode(&AES_TABLES, id)
}

fn any_destination() -> impl Strategy<Value = Destination> {
    (any::<u16>(), any::<u8>(), 0..16_u8)
        .prop_map(|(server, core, generation)| destination(server, core, generation))
}

/// Five standard deviations of a count around what was expected: chance alone breaks it once in two
/// million seeds, and the seeds are fixed.
fn assert_share(what: &str, seen: u32, tries: u32, share: f64) {
    let expected = f64::from(tries) * share;
    let deviation = (expected * (1.0 - share)).sqrt();
    assert!(
        (f64::from(seen) - expected).abs() <= 5.0 * deviation,
        "{what}: {seen} of {tries}, expected {expected:.0} ± {deviation:.0}"
    );
}

/// Miri is a thousand times slower: there the lines are walked, and the figures hold loosely.
fn tries(natively: u32) -> u32 {
    if cfg!(miri) { natively / 1_000 } else { natively }
}

#[test]
fn an_id_in_clear_can_be_read_by_eye() {
    let configs = only(OLD, Config::Plaintext);
    let id = configs.encode(OLD, destination(0x1234, 0x56, 0x7), *b"twelve bytes").unwrap();
    let [first, server_high, server_low, core, generation_check, nonce @ ..] = *id.as_bytes();
    assert_eq!(first, 0b010_10000, "codepoint 2, and 16 bytes follow");
    assert_eq!([server_high, server_low, core], [0x12, 0x34, 0x56]);
    assert_eq!(generation_check >> 4, 0x7);
    assert_eq!(&nonce, b"twelve bytes");
    // 1^2^3^4^5^6^7 is 0, so that the check shows the nonce and the constant alone.
    let nonce = nonce.iter().fold(0, |all, byte| all ^ byte >> 4 ^ byte & 0xf);
    assert_eq!(generation_check & 0xf, nonce ^ CHECK_FOLD);
}

#[test]
fn the_single_pass_vector_of_the_draft() {
    // draft-ietf-quic-load-balancers, "Load Balancer Test Vectors", cr_bits 2.
    let server_id_and_nonce = 0xed79_3a51_d49b_8f5f_ee08_0dbf_48c0_d1e5_u128.to_be_bytes();
    let id = b"\x50\x4d\xd2\xd0\x5a\x7b\x0d\xe9\xb2\xb9\x90\x7a\xfb\x5e\xcf\x8c\xc3";
    let key = AesKey::new(DRAFT_KEY.to_be_bytes());
    assert_eq!(key.encrypt(server_id_and_nonce), id[1..]);
    assert_eq!(key.decrypt(&AES_TABLES, id[1..].try_into().unwrap()), server_id_and_nonce);

    let configs = only(OLD, encrypted(DRAFT_KEY));
    let ours = configs.encode(OLD, destination(0xed79, 0x3a, 0x5), [7; 12]).unwrap();
    assert_eq!(ours.as_bytes()[0], id[0], "the same first octet");
    assert_eq!(decode(&configs, id), Err(Unroutable::Check), "a server id of the draft has no check");
}

#[test]
fn ids_of_the_draft_with_other_lengths_are_not_ours() {
    let configs = only(Codepoint(0), encrypted(DRAFT_KEY));
    let table: [&[u8]; 4] = [
        b"\x07\xc4\x60\x5e\x45\x04\xcc\x4f",
        b"\x07\x20\xb1\xd0\x7b\x35\x9d\x3c",
        b"\x2f\xcc\x38\x1b\xc7\x4c\xb4\xfb\xad\x28\x23\xa3\xd1\xf8\xfe\xd2",
        b"\x12\x57\x79\xc9\xcc\x86\xbe\xb3\xa3\xa4\xa3\xca\x96\xfc\xe4\xbf\xe0\xcd\xbc",
    ];
    for id in table {
        assert_eq!(decode(&configs, id), Err(Unroutable::Length), "{id:02x?}");
    }
}

#[test]
fn what_is_refused_and_why() {
    use Unroutable::*;
    let configs = only(OLD, Config::Plaintext);
    let id = *configs.encode(OLD, destination(1, 2, 3), [4; 12]).unwrap().as_bytes();
    let with_first = |first| [&[first], &id[1..]].concat();
    let table = [
        ("nothing", vec![], Length),
        ("what most clients make up", b"\x50random!".to_vec(), Length),
        ("the longest of QUIC version 1", vec![0x50; 20], Length),
        ("the reserved codepoint", with_first(0b111_10000), Reserved),
        ("the reserved codepoint and another length", with_first(0b111_00111), Reserved),
        ("a length of 15", with_first(0b010_01111), LengthBits),
        ("a length of 17, itself included", with_first(0b010_10001), LengthBits),
        ("a length of 0, as servers write that do not tell it", with_first(0b010_00000), LengthBits),
        ("another length and an unknown config", with_first(0b000_00111), LengthBits),
        ("the config before ours", with_first(0b001_10000), UnknownConfig),
        ("the highest config", with_first(0b110_10000), UnknownConfig),
        ("all zero but for the first octet", [&[0x50][..], &[0; 16]].concat(), Check),
        ("all ones but for the first octet", [&[0x50][..], &[0xff; 16]].concat(), Check),
        ("one byte again and again", [&[0x50][..], &[0x37; 16]].concat(), Check),
        ("two equal halves", [&[0x50][..], b"12345678", b"12345678"].concat(), Check),
    ];
    for (what, bytes, expected) in table {
        assert_eq!(decode(&configs, &bytes), Err(expected), "{what}");
    }
    assert_eq!(decode(&configs, &[0; CID_LEN]), Err(LengthBits), "all zero");
    assert_eq!(decode(&configs, &[0xff; CID_LEN]), Err(Reserved), "all ones");
}

#[test]
fn a_codepoint_that_is_not_in_use_makes_no_ids() {
    assert_eq!(Configs::new().encode(OLD, destination(1, 2, 3), [0; 12]), None);
    assert_eq!(only(OLD, Config::Plaintext).encode(NEW, destination(1, 2, 3), [0; 12]), None);
}

#[test]
fn numbers_out_of_bounds_are_no_codepoint_and_no_generation() {
    let codepoints: Vec<u8> = (0..=255).filter_map(Codepoint::new).map(Codepoint::get).collect();
    assert_eq!(codepoints, [0, 1, 2, 3, 4, 5, 6]);
    let generations: Vec<u8> = (0..=255).filter_map(Generation::new).map(Generation::get).collect();
    assert_eq!(generations, (0..16).collect::<Vec<u8>>());
}

#[test]
fn a_rotation_from_one_key_to_the_next() {
    let (here, nonce) = (destination(7, 1, 0), [9; 12]);
    let mut configs = only(OLD, encrypted(DRAFT_KEY));
    let old = configs.encode(OLD, here, nonce).unwrap();

    configs.set(NEW, encrypted(1));
    let new = configs.encode(NEW, here, nonce).unwrap();
    assert_ne!(old.as_bytes()[1..], new.as_bytes()[1..], "another key, another block");
    assert_eq!(decode(&configs, old.as_bytes()), Ok(Routable { destination: here, codepoint: OLD, nonce }));
    assert_eq!(decode(&configs, new.as_bytes()), Ok(Routable { destination: here, codepoint: NEW, nonce }));

    configs.set(OLD, Config::Absent);
    assert_eq!(decode(&configs, old.as_bytes()), Err(Unroutable::UnknownConfig));
    assert_eq!(decode(&configs, new.as_bytes()), Ok(Routable { destination: here, codepoint: NEW, nonce }));
}

#[test]
fn a_codepoint_that_is_used_again_too_early_misreads_one_old_id_in_16() {
    let (old, new) = (only(OLD, encrypted(DRAFT_KEY)), only(OLD, encrypted(1)));
    let (mut random, tries) = (SplitMix64(3), tries(20_000));
    let misread = (0..tries)
        .filter(|_| {
            let id = old.encode(OLD, destination(7, 1, 0), random.bytes()).unwrap();
            decode(&new, id.as_bytes()).is_ok()
        })
        .count();
    assert_share("ids of the old key", misread as u32, tries, 1.0 / 16.0);
}

#[test]
fn ids_of_different_destinations_differ_under_one_nonce() {
    let nonce = [0x5c; 12];
    for (layout, configs) in both_layouts() {
        let block = |here| configs.encode(OLD, here, nonce).unwrap().as_bytes()[1..].to_vec();
        let cores: HashSet<Vec<u8>> = (0..=255).map(|core| block(destination(1, core, 0))).collect();
        assert_eq!(cores.len(), 256, "{layout}: cores");
        let generations: HashSet<Vec<u8>> = (0..16).map(|number| block(destination(1, 0, number))).collect();
        assert_eq!(generations.len(), 16, "{layout}: generations");
        let servers: HashSet<Vec<u8>> = (0..256).map(|server| block(destination(server, 0, 0))).collect();
        assert_eq!(servers.len(), 256, "{layout}: servers");
    }
}

#[test]
fn ids_of_different_nonces_differ() {
    for (layout, configs) in both_layouts() {
        let count = if cfg!(miri) { 50 } else { 10_000 };
        let ids: HashSet<ConnectionId> = (0..count)
            .map(|counter: u64| {
                let mut nonce = [0; 12];
                nonce[4..].copy_from_slice(&counter.to_be_bytes());
                configs.encode(OLD, destination(1, 2, 3), nonce).unwrap()
            })
            .collect();
        assert_eq!(ids.len() as u64, count, "{layout}");
    }
}

#[test]
fn a_changed_bit_of_the_first_octet_is_always_noticed() {
    for (layout, configs) in both_layouts() {
        let id = *configs.encode(OLD, destination(1, 2, 3), [4; 12]).unwrap().as_bytes();
        let reasons: Vec<Unroutable> = (0..8)
            .map(|bit| decode(&configs, &[&[id[0] ^ 1 << bit], &id[1..]].concat()).unwrap_err())
            .collect();
        let (length, config) = (Unroutable::LengthBits, Unroutable::UnknownConfig);
        assert_eq!(reasons, [length, length, length, length, length, config, config, config], "{layout}");
    }
}

#[test]
fn a_changed_bit_of_an_encrypted_block_is_noticed_15_times_in_16() {
    let configs = only(OLD, encrypted(DRAFT_KEY));
    let (mut random, ids) = (SplitMix64(5), tries(1_000).max(4));
    let mut missed = 0;
    for _ in 0..ids {
        let id = *configs.encode(OLD, destination(1, 2, 3), random.bytes()).unwrap().as_bytes();
        for bit in 8..8 * CID_LEN {
            missed += u32::from(decode(&configs, &flip(id, bit)).is_ok());
        }
    }
    assert_share("changed ids that decode", missed, ids * 128, 1.0 / 16.0);
}

fn flip(mut id: [u8; CID_LEN], bit: usize) -> [u8; CID_LEN] {
    id[bit / 8] ^= 1 << (bit % 8);
    id
}

#[test]
fn each_nibble_alone_decides_the_check() {
    // The fold is linear, so with this the checks of all blocks are spread evenly: whatever the
    // others are, the 16 values of one nibble make 16 different folds.
    let bases = [[0; 16], [0xff; 16], *b"any other block!", SplitMix64(7).bytes()];
    for (base, nibble) in bases.iter().flat_map(|base| (0..32).map(move |nibble| (base, nibble))) {
        let folds: HashSet<u8> = (0..16)
            .map(|value: u8| {
                let mut block = *base;
                let (byte, shift) = (nibble / 2, 4 * (nibble % 2));
                block[byte] = block[byte] & !(0xf << shift) | value << shift;
                fold(block)
            })
            .collect();
        assert_eq!(folds.len(), 16, "nibble {nibble} of {base:02x?}");
    }
}

#[test]
fn the_checks_of_all_servers_are_spread_evenly() {
    let servers = if cfg!(miri) { 0x100 } else { 0x1_0000 };
    let mut counts = [0; 16];
    for server in 0..servers {
        let clear = write(destination(server as u16, 0x56, 7), *b"twelve bytes");
        counts[usize::from(clear[3] & 0xf)] += 1;
    }
    assert_eq!(counts, [servers / 16; 16]);
}

/// The formula of the module's documentation.
fn share(configs: u32, servers: u32, cores: u32, generations: u32) -> f64 {
    let alive = f64::from(servers) / 65_536.0 * (f64::from(cores) / 256.0) * (f64::from(generations) / 16.0);
    f64::from(configs) / 4_096.0 * alive
}

#[test]
fn random_ids_decode_as_often_as_the_documentation_says() {
    let mut two = only(OLD, Config::Plaintext);
    two.set(NEW, encrypted(1));
    let mut seven = Configs::new();
    (0..7).for_each(|number| seven.set(Codepoint(number), encrypted(u128::from(number) + 1)));
    let [(plaintext, one_plaintext), (encrypted, one_encrypted)] = both_layouts();
    let table = [
        (plaintext, one_plaintext, 1),
        (encrypted, one_encrypted, 1),
        ("one of each", two, 2),
        ("seven keys", seven, 7),
    ];
    // A site so large that the second count is not zero: half of the servers, cores and generations.
    let alive = |here: Destination| here.server < 32_768 && here.core < 128 && here.generation.get() < 8;

    let (mut random, tries) = (SplitMix64(1), tries(4_000_000));
    let mut decoded = [0; 4];
    let mut accepted = [0; 4];
    for _ in 0..tries {
        let id: [u8; CID_LEN] = random.bytes();
        for (index, (_, configs, _)) in table.iter().enumerate() {
            if let Ok(routable) = decode(configs, &id) {
                decoded[index] += 1;
                accepted[index] += u32::from(alive(routable.destination));
            }
        }
    }
    for (index, (what, _, configs)) in table.iter().enumerate() {
        assert_share(what, decoded[index], tries, share(*configs, 65_536, 256, 16));
        assert_share(&format!("{what}, alive"), accepted[index], tries, share(*configs, 32_768, 128, 8));
    }
}

#[test]
fn the_examples_of_the_documentation_follow_from_the_formula() {
    // Rounding differs between machines, and under Miri from run to run.
    let table = [
        (share(1, 64, 16, 1), 2_f64.powi(-30)),
        (share(2, 64, 16, 2), 2_f64.powi(-28)),
        (share(7, 65_536, 256, 16), 7.0 / 4_096.0),
    ];
    for (share, said) in table {
        assert!((share / said - 1.0).abs() < 1e-12, "{share} is not {said}");
    }
    let seconds_until_one = 1.0 / (1e6 * share(2, 64, 16, 2));
    assert_eq!(format!("{:.1} minutes", seconds_until_one / 60.0), "4.5 minutes");
}

#[test]
fn random_ids_of_eight_bytes_never_decode() {
    let mut random = SplitMix64(2);
    for (layout, configs) in both_layouts() {
        for _ in 0..tries(100_000) {
            assert_eq!(decode(&configs, &random.bytes::<8>()), Err(Unroutable::Length), "{layout}");
        }
    }
}

proptest! {
    #[test]
    fn what_was_written_is_read(
        number in 0..7_u8,
        key: Option<[u8; 16]>,
        here in any_destination(),
        nonce: [u8; 12],
    ) {
        let config = key.map_or(Config::Plaintext, |key| Config::Encrypted(AesKey::new(key)));
        let codepoint = Codepoint(number);
        let configs = only(codepoint, config);
        let id = configs.encode(codepoint, here, nonce).unwrap();
        prop_assert_eq!(decode(&configs, id.as_bytes()), Ok(Routable { destination: here, codepoint, nonce }));
    }

    #[test]
    fn an_id_that_is_cut_or_goes_on_is_refused(here in any_destination(), nonce: [u8; 12], more: [u8; 24]) {
        for (_, configs) in both_layouts() {
            let id = configs.encode(OLD, here, nonce).unwrap();
            let bytes = [id.as_bytes(), &more[..]].concat();
            for length in (0..bytes.len()).filter(|length| *length != CID_LEN) {
                prop_assert_eq!(decode(&configs, &bytes[..length]), Err(Unroutable::Length));
            }
        }
    }

    #[test]
    fn a_changed_bit_of_a_block_in_clear_is_always_noticed(here in any_destination(), nonce: [u8; 12]) {
        let configs = only(OLD, Config::Plaintext);
        let id = *configs.encode(OLD, here, nonce).unwrap().as_bytes();
        for bit in 8..8 * CID_LEN {
            prop_assert_eq!(decode(&configs, &flip(id, bit)), Err(Unroutable::Check));
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        for (_, configs) in both_layouts() {
            let _ = decode(&configs, &bytes);
        }
    }

    #[test]
    fn a_block_that_is_read_is_one_that_we_write(block: [u8; 16]) {
        let configs = only(OLD, Config::Plaintext);
        let id = [&[0x50], &block[..]].concat();
        let nonce = *block.last_chunk().unwrap();
        let again = decode(&configs, &id).map(|read| configs.encode(OLD, read.destination, nonce).unwrap());
        prop_assert!(again.is_err() || again.unwrap().as_bytes() == &id[..]);
    }
}
