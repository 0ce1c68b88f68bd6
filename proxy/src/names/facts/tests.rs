use super::*;

/// A reply about `a.b`, of this type, whose sections have these records; their bytes follow the question.
fn reply(kind: u16, counts: [u8; 3], records: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, counts[0], 0, counts[1], 0, counts[2]];
    bytes.extend(b"\x01a\x01b\0");
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    records.iter().for_each(|record| bytes.extend(*record));
    bytes
}

/// A record about the question's name.
fn record(kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    let mut bytes = vec![0xc0, 12];
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(ttl.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(data);
    bytes
}

fn soa(ttl: u32, minimum: u32) -> Vec<u8> {
    let mut data = b"\xc0\x0c\xc0\x0e".to_vec();
    data.extend([0; 16]);
    data.extend(minimum.to_be_bytes());
    record(SOA, ttl, &data)
}

fn read(kind: u16, counts: [u8; 3], records: &[&[u8]]) -> Result<Facts, Malformed> {
    Facts::read(&reply(kind, counts, records))
}

#[test]
fn places_of_ttls_and_ends_are_found() {
    let (one, two) = (record(A, 60, &[10, 0, 0, 1]), record(A, 30, &[10, 0, 0, 2]));
    let facts = read(A, [2, 0, 0], &[&one, &two]).unwrap();
    assert_eq!(facts.question_end, 21);
    assert_eq!(facts.records, [Mark { ttl_at: 27, end: 37 }, Mark { ttl_at: 43, end: 53 }]);
    assert_eq!((facts.ttl, facts.negative, facts.end), (Some(30), false, 53));
}

#[test]
fn what_does_not_exist_is_kept_as_long_as_its_zone_says() {
    let ttl = |code: u8, records: &[&[u8]], counts| {
        let mut bytes = reply(AAAA, counts, records);
        bytes[3] |= code;
        Facts::read(&bytes).unwrap()
    };
    let (soa, cname) = (soa(300, 60), record(CNAME, 20, b"\xc0\x0e"));
    let nothing = ttl(0, &[&soa], [0, 1, 0]);
    assert_eq!((nothing.ttl, nothing.negative), (Some(60), true));
    assert_eq!(ttl(3, &[&soa], [0, 1, 0]).ttl, Some(60));
    assert_eq!(ttl(3, &[&self::soa(10, 600)], [0, 1, 0]).ttl, Some(10));
    // A chain that ends nowhere.
    assert_eq!(ttl(0, &[&cname, &soa], [1, 1, 0]).ttl, Some(20));
    // Nobody says for how long.
    assert_eq!(ttl(3, &[], [0, 0, 0]).ttl, None);
    assert_eq!(ttl(0, &[&cname], [1, 0, 0]).ttl, None);
    assert_eq!(ttl(2, &[&soa], [0, 1, 0]).ttl, None);
    // The highest bit means zero.
    assert_eq!(read(A, [1, 0, 0], &[&record(A, 0x8000_0001, &[0; 4])]).unwrap().ttl, Some(0));
}

#[test]
fn the_opt_record_is_kept_apart() {
    let opt: &[u8] = &[0, 0, 41, 4, 208, 1, 0, 0x80, 0, 0, 6, 0, 15, 0, 2, 0, 3];
    let address = record(A, 60, &[10, 0, 0, 1]);
    let facts = read(A, [1, 0, 1], &[&address, opt]).unwrap();
    assert_eq!((facts.code, facts.end, facts.counts), (16, 37, [1, 0, 0]));
    assert_eq!(facts.options, Some(48..54));
    // What stands behind it is left out, since its names may point behind it.
    let facts = read(A, [1, 0, 2], &[&address, opt, &address]).unwrap();
    assert_eq!((facts.end, facts.counts), (37, [1, 0, 0]));
    for (counts, records) in [([1, 0, 0], &[opt][..]), ([0, 0, 2], &[opt, opt])] {
        assert_eq!(read(A, counts, records).unwrap_err(), Malformed::Opt);
    }
    let cut: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 15, 0, 2];
    assert!(read(A, [0, 0, 1], &[cut]).is_err());
}

#[test]
fn malformed_bytes_are_refused() {
    let address = record(A, 60, &[10, 0, 0, 1]);
    let cases: [(&str, Result<Facts, Malformed>, Malformed); 13] = [
        ("empty", Facts::read(&[]), Malformed::Short),
        ("a query", Facts::read(&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1]), Malformed::Header),
        ("a record too few", read(A, [1, 0, 0], &[]), Malformed::Short),
        ("a record too many", read(A, [1, 0, 0], &[&address, &address]), Malformed::Trailing),
        ("trailing", read(A, [1, 0, 0], &[&address, b"x"]), Malformed::Trailing),
        ("data beyond the end", read(A, [1, 0, 0], &[&address[..14]]), Malformed::Short),
        ("a short address", read(A, [1, 0, 0], &[&record(A, 1, &[1, 2, 3])]), Malformed::Data),
        ("a long address", read(A, [1, 0, 0], &[&record(AAAA, 1, &[0; 17])]), Malformed::Data),
        ("a pointer to itself", read(A, [1, 0, 0], &[&record(CNAME, 1, &[0xc0, 33])]), Malformed::Name),
        ("a pointer forwards", read(A, [1, 0, 0], &[&record(CNAME, 1, &[0xc0, 60])]), Malformed::Name),
        ("a pointer into the header", read(A, [1, 0, 0], &[&record(CNAME, 1, &[0xc0, 4])]), Malformed::Name),
        ("a reserved label", read(A, [1, 0, 0], &[&record(NS, 1, &[0x41, 0])]), Malformed::Name),
        ("a name and more", read(A, [1, 0, 0], &[&record(PTR, 1, &[0xc0, 12, 0])]), Malformed::Data),
    ];
    for (what, result, expected) in cases {
        assert_eq!(result, Err(expected), "{what}");
    }
}

/// Two pointers that point at each other, and a chain of them that is longer than any name needs.
#[test]
fn pointers_come_to_an_end() {
    let ring = record(CNAME, 1, &[0xc0, 35, 0xc0, 33]);
    assert_eq!(read(A, [1, 0, 0], &[&ring]).unwrap_err(), Malformed::Name);
    let mut chain = record(TXT, 1, &[0]);
    let data_at = 21 + chain.len() as u16 - 1;
    let pointers: Vec<u8> = (0..200_u16)
        .flat_map(|n| (0xc000 | if n == 0 { 12 } else { data_at + 2 * (n - 1) }).to_be_bytes())
        .collect();
    chain.truncate(chain.len() - 1);
    let length = u16::try_from(pointers.len()).unwrap();
    chain[10..12].copy_from_slice(&length.to_be_bytes());
    // Any type whose data nobody looks at.
    chain[2..4].copy_from_slice(&999_u16.to_be_bytes());
    chain.extend(&pointers);
    let last = (0xc000 | (data_at + 2 * 199)).to_be_bytes();
    let name = record(CNAME, 1, &last);
    assert_eq!(read(A, [2, 0, 0], &[&chain, &name]).unwrap_err(), Malformed::Name);
    let early = (0xc000 | (data_at + 2 * 100)).to_be_bytes();
    assert!(read(A, [2, 0, 0], &[&chain, &record(CNAME, 1, &early)]).is_ok());
}

/// Its last label would be the record that the name stands in.
#[test]
fn labels_behind_a_pointer_end_before_it() {
    let into_the_ttl = record(NS, 16, &[1, b'm', 0xc0, 30]);
    assert_eq!(read(A, [1, 0, 0], &[&into_the_ttl, &[0; 20]]).unwrap_err(), Malformed::Name);
}

#[test]
fn a_name_has_at_most_255_bytes_even_through_pointers() {
    let label = [&[63][..], &[b'x'; 63]].concat();
    let long = [&label[..], &label, &label].concat();
    // 3 × 64 bytes, and `a.b` and the root behind them.
    let fits = record(NS, 1, &[&long[..], &[0xc0, 12]].concat());
    assert!(read(A, [1, 0, 0], &[&fits]).is_ok());
    let over = record(NS, 1, &[&long[..], &[58], &[b'y'; 58], &[0xc0, 12]].concat());
    assert_eq!(read(A, [1, 0, 0], &[&over]).unwrap_err(), Malformed::Name);
}
