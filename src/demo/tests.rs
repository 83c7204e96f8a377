//! That answers are held against the plan.

use std::time::Instant;

use super::*;

/// What the gateway must answer to every upload.
fn answers(plan: &Plan) -> Vec<backend::Answer> {
    let answer = |origin: &str, index: usize, upload: &plan::Upload| {
        let taken: Vec<_> = (0..upload.keys.len()).filter(|i| !upload.not_taken.contains(i)).collect();
        let body = match (upload.code, upload.status) {
            (Some(code), _) => format!("{{\"code\":\"{}\"}}", code.code()),
            (None, 207) => format!("{{\"201\":{taken:?},\"409\":{:?},\"500\":[]}}", upload.not_taken),
            (None, _) => String::new(),
        };
        backend::Answer {
            origin: origin.to_owned(),
            index,
            sent_at: Instant::now(),
            status: upload.status,
            body,
        }
    };
    let of = |country: &&str| {
        let uploads = plan.of(country).all().iter().enumerate();
        uploads.map(|(i, upload)| answer(country, i, upload)).collect::<Vec<_>>()
    };
    COUNTRIES.iter().flat_map(of).collect()
}

fn wrong(plan: &Plan, all: Vec<backend::Answer>) -> Vec<String> {
    let mut answers = check::Answers::default();
    answers.add(all.into_iter());
    check::wrong_answers(plan, &answers)
}

#[test]
fn an_answer_is_right_only_with_all_that_stands_in_it() {
    let world = World::new(&COUNTRIES, SystemClock.now().timestamp()).unwrap();
    let plan = Plan::new(&world, 2000).unwrap();
    assert_eq!(wrong(&plan, answers(&plan)), [""; 0]);
    for (status, from, to) in
        [(207, "\"409\":[0,", "\"409\":["), (201, "", "{}"), (400, "-", "_"), (207, "[]", "[1]")]
    {
        let mut changed = answers(&plan);
        for answer in &mut changed {
            answer.body = answer.body.replace(' ', "");
        }
        let one = changed.iter_mut().find(|a| a.status == status && a.body.contains(from)).unwrap();
        one.body = one.body.replacen(from, to, 1);
        assert_eq!(wrong(&plan, changed).len(), 1, "{status} {from}");
    }
}
