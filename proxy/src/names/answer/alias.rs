//! The end of a walk along a search list that leads to a name of somebody else's: their reply, under an alias.
//!
//! Their names are compressed against their question, so the reply is taken apart and written anew. Not the hot path.

use hickory_proto::op::{Message, Query as Question};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

use crate::names::wire::{HEADER_BYTES, Query};

/// The client's question about another name.
pub(in crate::names) fn question_about(query: &Query<'_>, name: &[u8]) -> Box<[u8]> {
    let (header, rest) = query.message.split_at(HEADER_BYTES);
    let rest = &rest[query.name().len()..];
    [header, name, rest].concat().into()
}

/// `None` if their reply cannot be read.
pub(in crate::names) fn reply_under_alias(query: &Query<'_>, theirs: &[u8], ttl_s: u32) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(theirs).ok()?;
    let asked = message.queries.first()?.clone();
    let name = Name::read(&mut BinDecoder::new(query.name())).ok()?;
    let mut question = Question::query(name.clone(), asked.query_type);
    question.query_class = asked.query_class;
    message.queries = vec![question];
    let alias = Record::from_rdata(name, ttl_s, RData::CNAME(CNAME(asked.name)));
    if asked.query_type == RecordType::CNAME {
        message.answers.clear();
    }
    message.answers.insert(0, alias);
    message.metadata.authentic_data = false;
    message.to_vec().ok()
}
