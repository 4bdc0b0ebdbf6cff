use nezha_api::v1::HashRequest;

use super::compare::{Answer, Comparer, Verdict, judge};

/// The first key that members hold differently.
pub struct Difference {
    /// The key.
    pub key: Vec<u8>,
    /// Names of the members that have it.
    pub have: Vec<String>,
    /// Names of those that lack it.
    pub lack: Vec<String>,
}

/// Finds the first key that differs among members that all answer, by halving: the first half of the keys is compared,
/// then the half with the difference. Each step has its own index, so that it works while the members are written to.
///
/// `keys`: the difference lies within so many. None when it is gone meanwhile, or when a step could not be decided.
pub async fn first_difference(comparer: &Comparer, range: &HashRequest, keys: u64) -> Option<Difference> {
    let (mut range, mut keys) = (range.clone(), keys);
    while keys > 1 {
        range.limit_keys = keys / 2;
        let answers = comparer.hashes(&range).await;
        match judge(&answers) {
            Verdict::Different => keys = range.limit_keys,
            Verdict::Equal => {
                range.start = after(&answers)?.into();
                keys -= range.limit_keys;
            }
            Verdict::Undecided => return None,
        }
    }
    range.limit_keys = 1;
    let answers = comparer.hashes(&range).await;
    if judge(&answers) != Verdict::Different {
        return None;
    }
    // Whoever lacks the key answered about a later one, or about none.
    let firsts = answers.iter().flatten().filter(|answer| answer.keys > 0);
    let key = firsts.map(|answer| answer.last_key.clone()).min()?;
    let names = |has: bool| {
        let asked = comparer.replicas.iter().zip(answers.iter().flatten());
        let found = asked.filter(|(_, answer)| (answer.keys > 0 && answer.last_key == key) == has);
        found.map(|(replica, _)| replica.name.clone()).collect()
    };
    Some(Difference {
        have: names(true),
        lack: names(false),
        key: key.to_vec(),
    })
}

/// The first possible key after those that all members hold alike; `None` if there are none.
fn after(answers: &[Answer]) -> Option<Vec<u8>> {
    let last = &answers.iter().flatten().next()?.last_key;
    (!last.is_empty()).then(|| [last, &b"\0"[..]].concat())
}
