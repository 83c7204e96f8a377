use std::time::Duration;

use super::*;

fn de() -> Country {
    "DE".parse().unwrap()
}

fn created(tag: &str) -> Decision {
    Decision::Created { batch_tag: tag.into() }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

#[tokio::test]
async fn a_decision_may_come_before_or_after_the_question() {
    let decisions = Arc::new(Decisions::new(Bounds::default()));
    decisions.decided(de(), 7, None, created("early"), Millis(0));
    assert_eq!(decisions.wait(de(), Of::Offset(7), soon()).await, Some(Arc::new(created("early"))));
    let asked = tokio::spawn({
        let decisions = Arc::clone(&decisions);
        async move { decisions.wait(de(), Of::Upload([1; 16]), Instant::now() + Duration::from_secs(5)).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    decisions.decided(de(), 8, Some([1; 16]), created("late"), Millis(0));
    assert_eq!(asked.await.unwrap(), Some(Arc::new(created("late"))));
    assert_eq!(decisions.wait(de(), Of::Offset(9), soon()).await, None);
    let fr = "FR".parse().unwrap();
    assert_eq!(decisions.wait(fr, Of::Offset(7), soon()).await, None, "another country's");
    assert_eq!(decisions.receipt(fr, [1; 16]), None, "another country's");
}

#[test]
fn receipts_go_from_pending_to_decided_in_either_order() {
    let decisions = Decisions::new(Bounds::default());
    decisions.expect(de(), [1; 16], Millis(0));
    assert_eq!(decisions.receipt(de(), [1; 16]), Some(Receipt::Pending));
    decisions.decided(de(), 1, Some([1; 16]), created("a"), Millis(0));
    decisions.expect(de(), [1; 16], Millis(0));
    assert_eq!(decisions.receipt(de(), [1; 16]), Some(Receipt::Decided(Arc::new(created("a")))));
    assert_eq!(decisions.receipt(de(), [2; 16]), None);
}

#[test]
fn memory_is_bounded_by_weight_and_age() {
    let decisions = Decisions::new(Bounds { weight: 40, age_ms: 1000 });
    decisions.expect(de(), [1; 16], Millis(0));
    decisions.decided(de(), 1, Some([1; 16]), created("a"), Millis(0));
    let heavy = Decision::Partial { keys: 9, refused: (0..8).collect() };
    decisions.decided(de(), 2, Some([2; 16]), heavy.clone(), Millis(1));
    assert!(
        matches!(decisions.receipt(de(), [1; 16]), Some(Receipt::Decided(_))),
        "forgetting that it was pending does not forget the decision"
    );
    decisions.decided(de(), 3, Some([3; 16]), heavy, Millis(2));
    assert_eq!(decisions.receipt(de(), [1; 16]), None);
    assert!(decisions.receipt(de(), [3; 16]).is_some());
    decisions.decided(de(), 4, Some([4; 16]), created("b"), Millis(2000));
    assert_eq!(decisions.receipt(de(), [3; 16]), None, "too old");
    assert_eq!(decisions.memory().order.len(), 1);
    assert_eq!(decisions.memory().receipts.len(), 2);
}

#[tokio::test]
async fn a_decision_wakes_those_it_is_about_and_nobody_stays_in_line() {
    let decisions = Arc::new(Decisions::new(Bounds::default()));
    let ask = |of| {
        let decisions = Arc::clone(&decisions);
        tokio::spawn(async move { decisions.wait(de(), of, Instant::now() + Duration::from_secs(30)).await })
    };
    let in_line = async |n: usize| {
        while decisions.memory().waiting.values().map(Vec::len).sum::<usize>() != n {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (one, same, by_name, gone) =
        (ask(Of::Offset(1)), ask(Of::Offset(1)), ask(Of::Upload([1; 16])), ask(Of::Offset(2)));
    in_line(4).await;
    decisions.decided(de(), 3, None, created("another"), Millis(0));
    in_line(4).await;
    decisions.decided(de(), 1, Some([1; 16]), created("a"), Millis(0));
    for asked in [one, same, by_name] {
        assert_eq!(asked.await.unwrap(), Some(Arc::new(created("a"))));
    }
    in_line(1).await;
    // A client that goes away, and one that has waited for long enough.
    gone.abort();
    assert!(gone.await.is_err());
    assert_eq!(decisions.wait(de(), Of::Offset(2), soon()).await, None);
    in_line(0).await;
}

#[tokio::test]
async fn an_upload_waits_until_its_ledger_is_read() {
    let decisions = Decisions::new(Bounds::default());
    assert!(!decisions.followed(de(), soon()).await);
    decisions.follow([de()].into());
    assert!(decisions.followed(de(), soon()).await);
}
