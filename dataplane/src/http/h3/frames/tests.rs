//! What the readers of frames promise: order, bounds, codes, and that it does not matter how the bytes are cut.

use proptest::prelude::*;

use super::*;

const HEADERS_MAX: u64 = 3000;

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    head(&mut out, kind, payload.len() as u64);
    out.extend_from_slice(payload);
    out
}

fn declared(kind: u64, length: u64) -> Vec<u8> {
    let mut out = Vec::new();
    head(&mut out, kind, length);
    out
}

fn number_of(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, value);
    out
}

fn read_whole(bytes: &[u8]) -> (Vec<Part>, Result<bool, Fault>) {
    read_parts([bytes].into_iter(), HEADERS_MAX)
}

fn read_in_pieces(bytes: &[u8], piece: usize) -> (Vec<Part>, Result<bool, Fault>) {
    read_parts(bytes.chunks(piece), HEADERS_MAX)
}

fn verdict(bytes: &[u8]) -> Result<bool, Fault> {
    read_whole(bytes).1
}

#[test]
fn a_request_is_a_head_a_body_and_trailers_with_unknown_frames_between() {
    let bytes = [
        frame(0x21, b"ignored"),
        frame(HEADERS, b"head"),
        frame(DATA, b"bo"),
        frame(0x40, b""),
        frame(DATA, b""),
        frame(DATA, b"dy"),
        frame(HEADERS, b""),
        frame(0x21, b"x"),
    ]
    .concat();
    let expected = [
        Part::Headers(Bytes::from_static(b"head")),
        Part::Data(Bytes::from_static(b"body")),
        Part::Headers(Bytes::new()),
    ];
    assert_eq!(read_whole(&bytes), (expected.to_vec(), Ok(true)));
    for piece in 1..bytes.len() {
        assert_eq!(read_in_pieces(&bytes, piece), (expected.to_vec(), Ok(true)), "in pieces of {piece}");
    }
}

#[test]
fn frames_have_their_place() {
    let head = frame(HEADERS, b"head");
    let unexpected = Err(UNEXPECTED);
    assert_eq!(verdict(&frame(DATA, b"x")), unexpected, "data before a head");
    for kind in [CANCEL_PUSH, SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID].into_iter().chain(RESERVED) {
        assert_eq!(verdict(&[head.clone(), frame(kind, b"x")].concat()), unexpected, "{kind:#x}");
    }
    let whole = [head.clone(), frame(DATA, b"x"), frame(HEADERS, b"trailers")].concat();
    assert_eq!(verdict(&whole), Ok(true));
    assert_eq!(verdict(&[whole.clone(), frame(DATA, b"x")].concat()), unexpected, "data after trailers");
    assert_eq!(verdict(&[whole, head].concat()), unexpected, "a third section");
}

#[test]
fn a_declared_length_is_judged_before_the_frame_comes() {
    assert_eq!(verdict(&declared(HEADERS, HEADERS_MAX)), Ok(false));
    assert_eq!(verdict(&declared(HEADERS, HEADERS_MAX + 1)), Err(Fault::LongHeaders));
    assert_eq!(verdict(&declared(0x21, UNKNOWN_MAX)), Ok(false));
    assert_eq!(verdict(&declared(0x21, UNKNOWN_MAX + 1)), Err(Fault::LongFrame));
    let head = frame(HEADERS, b"head");
    let endless = [head.clone(), declared(DATA, (1 << 62) - 1)].concat();
    assert_eq!(verdict(&endless), Ok(false), "bodies have a limit of their own");
    assert_eq!(
        verdict(&[head, declared(HEADERS, 5000)].concat()),
        Err(Fault::LongHeaders),
        "trailers count as well"
    );
}

#[test]
fn a_fault_is_final_and_an_end_within_a_frame_is_seen() {
    let mut reader = PartReader::new(10);
    reader.push(declared(HEADERS, 11).into());
    assert_eq!(reader.next(), Err(Fault::LongHeaders));
    assert_eq!(reader.next(), Err(Fault::LongHeaders));
    assert!(!reader.is_between_frames());
    let bytes = frame(HEADERS, b"head");
    for cut in 1..bytes.len() {
        assert_eq!(verdict(&bytes[..cut]), Ok(false), "after {cut} bytes");
    }
}

fn read_uni(bytes: &[u8]) -> Result<Interest, Fault> {
    read_unidirectional([bytes].into_iter())
}

fn control(frames: &[Vec<u8>]) -> Result<Interest, Fault> {
    read_uni(&[number_of(CONTROL_STREAM), frames.concat()].concat())
}

fn protocol(code: Code) -> Result<Interest, Fault> {
    Err(Fault::Protocol(code))
}

#[test]
fn a_control_stream_begins_with_settings_and_has_them_once() {
    let settings = frame(SETTINGS, &[number_of(MAX_FIELD_SECTION_SIZE), number_of(70_000)].concat());
    assert_eq!(
        control(&[settings.clone(), frame(0x21, b"ignored"), frame(GOAWAY, &[0])]),
        Ok(Interest::Some)
    );
    assert_eq!(control(&[frame(MAX_PUSH_ID, &[8])]), protocol(Code::MissingSettings));
    assert_eq!(control(&[settings.clone(), settings.clone()]), Err(UNEXPECTED));
    for kind in [DATA, HEADERS, PUSH_PROMISE].into_iter().chain(RESERVED) {
        assert_eq!(control(&[settings.clone(), frame(kind, b"")]), Err(UNEXPECTED), "{kind:#x}");
    }
    assert_eq!(control(&[settings, declared(7, CONTROL_MAX + 1)]), Err(Fault::LongFrame));
    assert_eq!(control(&[frame(SETTINGS, b"")]), Ok(Interest::Some));
}

#[test]
fn settings_are_pairs_that_mean_something_here() {
    let settings = |pairs: &[(u64, u64)]| {
        let pairs: Vec<u8> =
            pairs.iter().flat_map(|(id, value)| [number_of(*id), number_of(*value)].concat()).collect();
        control(&[frame(SETTINGS, &pairs)])
    };
    assert_eq!(
        settings(&[(0x01, 4096), (0x07, 100), (0x21, 5), (ENABLE_CONNECT_PROTOCOL, 1)]),
        Ok(Interest::Some)
    );
    assert_eq!(settings(&[(0x21, 1), (0x21, 1)]), protocol(Code::SettingsError), "twice");
    assert_eq!(settings(&[(ENABLE_CONNECT_PROTOCOL, 2)]), protocol(Code::SettingsError));
    for id in RESERVED_SETTINGS {
        assert_eq!(settings(&[(id, 0)]), protocol(Code::SettingsError), "{id:#x}");
    }
    assert_eq!(control(&[frame(SETTINGS, &[6])]), protocol(Code::FrameError), "half a pair");
}

#[test]
fn numbers_of_pushes_and_of_the_end_go_one_way() {
    let settings = frame(SETTINGS, b"");
    let ids = |kind, first: u8, second: u8| {
        control(&[settings.clone(), frame(kind, &[first]), frame(kind, &[second])])
    };
    assert_eq!(ids(MAX_PUSH_ID, 3, 3), Ok(Interest::Some));
    assert_eq!(ids(MAX_PUSH_ID, 3, 2), protocol(Code::IdError));
    assert_eq!(ids(GOAWAY, 3, 2), Ok(Interest::Some));
    assert_eq!(ids(GOAWAY, 2, 3), protocol(Code::IdError));
    assert_eq!(control(&[settings.clone(), frame(CANCEL_PUSH, &[0])]), protocol(Code::IdError));
    for kind in [MAX_PUSH_ID, GOAWAY, CANCEL_PUSH] {
        for broken in [&[][..], &[0x40], &[1, 2]] {
            assert_eq!(
                control(&[settings.clone(), frame(kind, broken)]),
                protocol(Code::FrameError),
                "{kind:#x}"
            );
        }
    }
}

#[test]
fn streams_of_a_kind_come_once_and_do_not_end() {
    for (kind, critical) in
        [(CONTROL_STREAM, true), (ENCODER_STREAM, true), (DECODER_STREAM, true), (0x21, false)]
    {
        let mut told = Told::default();
        let (mut first, mut second) = (UniReader::new(), UniReader::new());
        assert_eq!(first.end(), Ok(()), "its kind is not known yet");
        first.read(number_of(kind).into(), &mut told).expect("the first");
        let again = second.read(number_of(kind).into(), &mut told);
        assert_eq!(again.is_err(), critical, "{kind:#x} for the second time");
        assert_eq!(first.end().is_err(), critical, "{kind:#x} ends");
    }
    assert_eq!(read_uni(&number_of(PUSH_STREAM)), protocol(Code::StreamCreationError));
    assert_eq!(read_uni(&[number_of(0x21), b"anything".to_vec()].concat()), Ok(Interest::None));
}

#[test]
fn a_table_without_room_is_neither_filled_nor_acknowledged() {
    let encoder = |bytes: &[u8]| read_uni(&[&[ENCODER_STREAM as u8], bytes].concat());
    assert_eq!(encoder(&[CAPACITY_ZERO, CAPACITY_ZERO]), Ok(Interest::Some));
    assert_eq!(encoder(&[CAPACITY_ZERO | 1]), protocol(Code::QpackEncoderStreamError));
    assert_eq!(encoder(&[0xc0]), protocol(Code::QpackEncoderStreamError), "an insert");
    let decoder = |bytes: &[u8]| read_uni(&[&[DECODER_STREAM as u8], bytes].concat());
    assert_eq!(decoder(&[0x41, 0x7f, 0xff, 0x01, 0x40]), Ok(Interest::Some), "cancellations");
    assert_eq!(decoder(&[0x80]), protocol(Code::QpackDecoderStreamError), "an acknowledgement");
    assert_eq!(decoder(&[0x01]), protocol(Code::QpackDecoderStreamError), "an increment");
}

#[test]
fn what_is_written_is_read() {
    let mut told = Told::default();
    let mut reader = UniReader::new();
    for bytes in [preface(70_000), goaway(400)] {
        assert_eq!(reader.read(bytes.into(), &mut told), Ok(Interest::Some));
    }
    assert_eq!(told.goaway, Some(400));
    for length in [0, 63, 64, 0x3fff, 0x4000, 70_000] {
        let mut out = b"before".to_vec();
        headers(&mut out, |out| out.resize(out.len() + length, b'h'));
        let mut reader = PartReader::new(1 << 20);
        reader.push(out.split_off(6).into());
        assert_eq!(reader.next(), Ok(Some(Part::Headers(vec![b'h'; length].into()))), "{length}");
        assert_eq!((out.as_slice(), reader.is_between_frames()), (b"before".as_slice(), true));
    }
}

proptest! {
    #[test]
    fn parts_do_not_depend_on_how_the_bytes_are_cut(
        frames in prop::collection::vec((0u64..0x30, 0u64..5000), 0..10),
        cut in 0usize..30_000,
        piece in 1usize..50,
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, length)| frame(*kind, &vec![7; *length as usize])).collect();
        let bytes = [frame(HEADERS, b"head"), bytes].concat();
        let bytes = &bytes[..cut.min(bytes.len())];
        prop_assert_eq!(read_in_pieces(bytes, piece), read_whole(bytes));
    }

    #[test]
    fn any_bytes_are_read_without_panic_however_they_are_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        piece in 1usize..20,
    ) {
        prop_assert_eq!(read_in_pieces(&bytes, piece), read_whole(&bytes));
        prop_assert_eq!(read_unidirectional(bytes.chunks(piece)), read_uni(&bytes));
    }
}
