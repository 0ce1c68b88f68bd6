//! Worlds with more services than instances: those who are asked for have one, and give it up for others.

use super::*;

/// Room for 8 slots on the two workers, 4 of them for services that the configuration names.
const SMALL: &str =
    "policy_host: {cache_dir: none, instances_max: 16, quarantine: {failures: 1, window: 1m}}";

fn many(count: usize) -> String {
    let one = |n| format!("  s{n}: {{endpoints: [\"10.0.3.{n}:80\", \"10.0.4.{n}:80\"]}}\n");
    format!("services:\n{}", (0..count).map(one).collect::<String>())
}

impl Scene {
    /// A worker picks from a cold pool.
    async fn want(&self, worker: usize, pool: &str) {
        let snapshot = self.control.snapshots().borrow().clone().unwrap();
        let digest = snapshot.pool(pool).unwrap().balancer.digest;
        self.reports.send(Report::Wanted { worker, slot: balancer(pool), digest }).await.unwrap();
    }
}

fn sorted(slots: &[Slot]) -> Vec<String> {
    let mut names: Vec<String> = slots.iter().map(|slot| format!("{slot:?}")).collect();
    names.sort();
    names
}

#[tokio::test]
async fn services_that_are_asked_for_have_instances() {
    let scene = Scene::start(&format!("{SMALL}\nservices: {{s1: {{}}}}"), &many(20)).await;
    assert_eq!(scene.seen.borrow().delivered, [balancer("s1")], "the one that is named");
    scene.until_status(|status| status.ready.ready && status.ready.problems.is_empty()).await;
    // Two workers want the same.
    scene.want(0, "s3").await;
    scene.want(1, "s3").await;
    scene.want(0, "s4").await;
    scene.until(|seen| seen.replaced.len() == 2).await;
    assert_eq!(sorted(&scene.seen.borrow().replaced), sorted(&[balancer("s3"), balancer("s4")]));
    assert_eq!(scene.metrics.policy_instances.get(), 6);

    // A swap makes instances for those in use, and no others.
    let done = scene.control.put("p2c", component("round-robin")).await.unwrap();
    scene.until(|seen| seen.version == done.version).await;
    let delivered = scene.seen.borrow().delivered[1..].to_vec();
    assert_eq!(sorted(&delivered), sorted(&["s1", "s3", "s4"].map(balancer)));
    assert_eq!(scene.metrics.policy_instances.get(), 6);
}

#[tokio::test]
async fn a_policy_is_refused_even_where_nobody_has_asked_for_it() {
    let config = format!("{SMALL}\nservices: {{}}");
    let scene = Scene::start(&config, &many(20)).await;
    assert!(scene.seen.borrow().delivered.is_empty());
    let router = scene.control.put("p2c", component("canary")).await.unwrap_err();
    assert!(matches!(&router, Denied::Refused(text) if text.contains("balancer")), "{router}");
    assert_eq!(scene.control.status().ready.version, 1);
    let bad = "defaults:\n  balancer: {policy: maglev, config: {table_size: no}}";
    let bad = Scene::try_start(&format!("{SMALL}\n{bad}"), &many(20), &[]).await.map(drop).unwrap_err();
    assert!(bad.to_string().contains("outrigger.yaml:5:") && bad.to_string().contains("maglev"), "{bad}");
    // Not even a service is there.
    let bad = "defaults:\n  balancer: {policy: maglev, config: {table_size: no}}";
    let bad = Scene::try_start(bad, "services: {}", &[]).await.map(drop).unwrap_err();
    assert!(bad.to_string().contains("maglev"), "{bad}");
}

#[tokio::test]
async fn those_not_asked_for_longest_make_room() {
    let scene = Scene::start(&format!("{SMALL}\nservices: {{s1: {{}}}}"), &many(20)).await;
    for n in 2..=8 {
        scene.want(0, &format!("s{n}")).await;
        scene.until(|seen| seen.replaced.len() == n - 1).await;
    }
    assert_eq!((scene.metrics.policy_instances.get(), scene.seen.borrow().evicted.len()), (16, 0));
    scene.want(0, "s9").await;
    scene.until(|seen| seen.instances.contains_key(&balancer("s9"))).await;
    assert_eq!(scene.seen.borrow().evicted, [balancer("s2")], "asked for first");
    assert_eq!((scene.metrics.policy_instances.get(), scene.metrics.policy_evictions.get()), (16, 2));
    // It failed just before it had to go: nobody makes another until it is wanted.
    let digest = scene.control.snapshots().borrow().as_ref().unwrap().pool("s2").unwrap().balancer.digest;
    let failure = Failure { kind: FailureKind::Trap, message: "pick: unreachable".into() };
    scene.want(0, "s2").await;
    scene.until(|seen| seen.instances.contains_key(&balancer("s2"))).await;
    let replaced = scene.seen.borrow().replaced.len();
    scene.reports.send(Report::Failed { worker: 0, slot: balancer("s3"), digest, failure }).await.unwrap();
    scene.until_status(|status| status.policies[0].failures == 1).await;
    assert_eq!(scene.seen.borrow().replaced.len(), replaced);
}

#[tokio::test]
async fn cold_services_follow_the_fate_of_their_policy() {
    let scene = Scene::start(&format!("{SMALL}\nservices: {{s1: {{}}}}"), &many(20)).await;
    scene.want(0, "s3").await;
    scene.until(|seen| seen.replaced.len() == 1).await;
    scene.fail(&balancer("s3")).await;
    scene.until(|seen| seen.quarantined.len() == 2).await;
    scene.want(0, "s4").await;
    scene.until(|seen| seen.quarantined.contains(&balancer("s4"))).await;
    assert_eq!(scene.metrics.policy_instances.get(), 0);
    scene.control.reset("p2c").await.unwrap();
    scene.want(0, "s4").await;
    scene.until(|seen| seen.replaced.contains(&balancer("s4"))).await;
    assert_eq!(scene.metrics.policy_instances.get(), 4, "of s1, which is named, and s4");
}

#[tokio::test]
async fn what_wants_to_be_rebuilt_is_where_it_is_in_use() {
    let config = format!("{SMALL}\ndefaults: {{balancer: maglev}}");
    let scene = Scene::start(&config, &many(20)).await;
    scene.want(0, "s3").await;
    scene.until(|seen| seen.replaced.len() == 1).await;
    let moved = many(20).replace("10.0.4.3:", "10.0.5.3:").replace("10.0.4.4:", "10.0.5.4:");
    scene.write("services.yaml", &moved);
    scene.until(|seen| seen.version == 2).await;
    assert_eq!(scene.seen.borrow().delivered, [balancer("s3")]);
    // Services that go take theirs along.
    let kept: Vec<&str> = moved.lines().filter(|line| !line.contains(" s3:")).collect();
    scene.write("services.yaml", kept.join("\n"));
    scene.until(|seen| seen.version == 3).await;
    scene.until_status(|status| status.ready.version == 3).await;
    assert_eq!(scene.metrics.policy_instances.get(), 0);
}
