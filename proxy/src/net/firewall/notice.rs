//! Notifications of nftables: whether they are about our table. Pure.

use super::TABLE;
use super::message::{Answer, answers, attribute, text};

/// nfnetlink's number of the group that tells of tables, chains, rules, sets and elements.
pub const GROUP: u32 = 7;
/// Of all that is told of, the attribute with the table's name.
const TABLE_NAME: u16 = 1;

/// What cannot be read may be ours.
pub fn concerns(bytes: &[u8]) -> bool {
    let is_ours = |answer: &Answer<'_>| match answer {
        Answer::Data { attributes } => {
            attribute(attributes, TABLE_NAME).is_some_and(|name| text(name) == TABLE)
        }
        Answer::Result { .. } | Answer::Done => false,
    };
    answers(bytes).map_or(true, |answers| answers.iter().any(is_ours))
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;

    #[test]
    fn other_tables_are_others_business() {
        let about = |name: &str| concerns(encode::replace(name, None).bytes());
        assert!(about(TABLE) && !about("filter") && !about("outrigger-anchor"));
        assert!(concerns(&[40, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]), "cut short");
    }
}
