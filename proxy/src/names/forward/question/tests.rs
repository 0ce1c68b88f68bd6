use super::*;

fn parse(message: &[u8]) -> Query<'_> {
    Query::parse(message).unwrap()
}

/// `a.bc`, type A, with these options.
fn with_options(options: &[u8]) -> Vec<u8> {
    let mut message =
        b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x01a\x02Bc\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\x80\0".to_vec();
    message.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
    message.extend(options);
    message
}

const COOKIE: &[u8] = &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
const SUBNET: &[u8] = &[0, 8, 0, 7, 0, 1, 24, 0, 10, 1, 2];

#[test]
fn a_shared_question_is_our_own() {
    let message = with_options(COOKIE);
    let query = parse(&message);
    assert!(Question::is_shared(&query), "a cookie is between two hops");
    let question = Question::shared(&query.key());
    assert_eq!(question.asked(), b"\x01a\x02bc\0\0\x01\0\x01");
    let sent = question.message(true);
    let again = parse(&sent);
    assert!(again.dnssec_ok() && again.recursion_desired());
    assert_eq!(again.edns.unwrap().options, b"");
    let plain = question.message(false);
    assert!(parse(&plain).edns.is_none());
}

#[test]
fn a_private_question_goes_without_what_is_between_two_hops() {
    let message = with_options(&[COOKIE, SUBNET, &[0, 11, 0, 0], &[0, 12, 0, 2, 0, 0]].concat());
    let query = parse(&message);
    assert!(!Question::is_shared(&query));
    let sent = Question::private(&query).message(true);
    let again = parse(&sent);
    assert_eq!(again.edns.unwrap().options, SUBNET);
    assert_eq!(again.name(), b"\x01a\x02Bc\0", "in the client's spelling");
    let mut no_recursion = with_options(b"");
    no_recursion[2] = 0;
    assert!(!Question::is_shared(&parse(&no_recursion)));
}

#[test]
fn letters_change_case_and_nothing_else_does() {
    let random = Random::new();
    let name = [&[26][..], b"abcdefghijklmnopqrstuvwxyz", &[4], b"a-1b", &[0]].concat();
    let message = [&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &name, &[0, 1, 0, 1]].concat();
    let key = parse(&message).key();
    let spelt = || {
        let mut question = Question::shared(&key);
        question.spell(&random);
        question.asked().to_vec()
    };
    let all: Vec<_> = (0..4).map(|_| spelt()).collect();
    assert!(all.iter().all(|asked| asked.to_ascii_lowercase() == [&name[..], &[0, 1, 0, 1]].concat()));
    assert!(all.windows(2).any(|two| two[0] != two[1]));
}

#[test]
fn only_the_reply_to_what_was_asked_fits() {
    let asked = b"\x01a\0\0\x01\0\x01";
    let reply = |id: u16, flags: u16, question: &[u8]| {
        let mut bytes = [id.to_be_bytes(), flags.to_be_bytes()].concat();
        bytes.extend([0, u8::from(!question.is_empty()), 0, 0, 0, 0, 0, 0]);
        bytes.extend(question);
        bytes
    };
    assert_eq!(fits(&reply(7, 0x8180, asked), 7, asked), Ok(()));
    assert_eq!(fits(&reply(8, 0x8180, asked), 7, asked), Err(Lie::Id));
    assert_eq!(fits(&reply(7, 0x0100, asked), 7, asked), Err(Lie::Id), "a query");
    assert_eq!(fits(b"\0\x07", 7, asked), Err(Lie::Id));
    for other in [&b"\x01A\0\0\x01\0\x01"[..], b"\x01a\0\0\x1c\0\x01", b"\x01b\0\0\x01\0\x01", b"", b"\x01a"]
    {
        assert_eq!(fits(&reply(7, 0x8180, other), 7, asked), Err(Lie::Question), "{other:?}");
    }
    assert_eq!(fits(&reply(7, 0x8181, b""), 7, asked), Ok(()), "it could not read the question");
    assert_eq!(fits(&reply(7, 0x8182, b""), 7, asked), Err(Lie::Question));
}
