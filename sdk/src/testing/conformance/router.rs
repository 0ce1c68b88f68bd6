//! The checks of routers: granted backends only, legal answers only, and nothing that a request says may upset it.

use super::drive::{MILLISECOND_NS, START_NS, setup};
use super::{Host, Report, RouterSubject};
use crate::router::{Context, Decision, Header, Interests};
use crate::testing::{Random, Request, get};

/// The proxy refuses to let a policy set or remove these.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Runs all checks; each begins with a fresh instance. The same subject and configuration give the same report.
pub fn check_router(subject: &mut dyn RouterSubject, config: &str, backends: &[&str]) -> Report {
    let backends: Vec<String> = backends.iter().map(|&name| name.to_owned()).collect();
    let mut report = Report::default();
    let configured = start(subject, config, &backends);
    let interests = configured.as_ref().map_or(Interests::empty(), |interests| *interests);
    report.run("accepts its configuration", || configured.map(|_| ()));
    if !report.passed() {
        return report;
    }
    let asks = |interest: Interests| {
        if interests.contains(interest) { Ok(()) } else { Err("it does not ask for it") }
    };
    report.run("answers plain requests legally", || answers(subject, config, &backends, &plain()));
    report.run("answers odd requests legally", || answers(subject, config, &backends, &odd()));
    report.run_if("stands ticks", asks(Interests::TICKS), || ticks(subject, config, &backends));
    report.run_if("hands its state over", asks(Interests::STATE), || state(subject, config, &backends));
    report.run("answers the same to the same calls", || deterministic(subject, config, &backends));
    report
}

fn start(subject: &mut dyn RouterSubject, config: &str, backends: &[String]) -> Result<Interests, String> {
    subject.surround(&Host::idle(0, START_NS));
    subject.configure(&setup(config), backends)
}

fn answers(
    subject: &mut dyn RouterSubject,
    config: &str,
    backends: &[String],
    requests: &[Request],
) -> Result<(), String> {
    start(subject, config, backends)?;
    let mut random = Random::new(1);
    for request in requests {
        for _ in 0..20 {
            let decision = route(subject, request, &mut random)?;
            legal(&decision, backends.len()).map_err(|error| format!("{}: {error}", brief(request)))?;
        }
    }
    Ok(())
}

fn route(
    subject: &mut dyn RouterSubject,
    request: &Request,
    random: &mut Random,
) -> Result<Decision, String> {
    subject.surround(&Host { request: request.clone(), ..Host::idle(0, START_NS) });
    let ctx = Context { hash: random.next(), random: random.next(), now: START_NS };
    subject.route(&ctx).map_err(|error| format!("{}: {error}", brief(request)))
}

fn ticks(subject: &mut dyn RouterSubject, config: &str, backends: &[String]) -> Result<(), String> {
    start(subject, config, backends)?;
    for i in 1..50 {
        let now = START_NS + i * 100 * MILLISECOND_NS;
        subject.surround(&Host::idle(0, now));
        subject.tick(now)?;
    }
    Ok(())
}

fn state(subject: &mut dyn RouterSubject, config: &str, backends: &[String]) -> Result<(), String> {
    start(subject, config, backends)?;
    let mut random = Random::new(2);
    for request in plain() {
        route(subject, &request, &mut random)?;
    }
    let bytes = subject.export_state()?;
    start(subject, config, backends)?;
    subject.import_state(&bytes)?.map_err(|error| format!("refuses its own state: {error}"))?;
    for length in [0, 1, 7, 64, 1_000] {
        start(subject, config, backends)?;
        let strange: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        // Both answers are right; only a trap is not.
        let _answer = subject.import_state(&strange)?;
        route(subject, &get("/"), &mut random)?;
    }
    Ok(())
}

fn deterministic(subject: &mut dyn RouterSubject, config: &str, backends: &[String]) -> Result<(), String> {
    let mut run = || -> Result<Vec<Decision>, String> {
        start(subject, config, backends)?;
        let mut random = Random::new(3);
        plain().iter().cycle().take(100).map(|request| route(subject, request, &mut random)).collect()
    };
    if run()? == run()? { Ok(()) } else { Err("two runs from the same seed differ".into()) }
}

/// What the proxy would refuse at run time.
fn legal(decision: &Decision, granted: usize) -> Result<(), String> {
    let in_range = |backend: u32| {
        if (backend as usize) < granted { Ok(()) } else { Err(format!("backend {backend} of {granted}")) }
    };
    match decision {
        Decision::Next => Ok(()),
        Decision::Backend(backend) => in_range(*backend),
        Decision::Forward(forward) => {
            in_range(forward.backend)?;
            forward.mirror.map_or(Ok(()), in_range)?;
            if forward.path.as_ref().is_some_and(|path| !path.starts_with('/')) {
                return Err(format!("the new path {:?} does not begin with /", forward.path));
            }
            forward.remove_headers.iter().try_for_each(|name| legal_name(name))?;
            legal_headers(&forward.set_headers)?;
            legal_headers(&forward.set_response_headers)
        }
        Decision::Redirect(redirect) => match redirect.status {
            301 | 302 | 303 | 307 | 308 => legal_value(&redirect.location),
            status => Err(format!("{status} is not the status of a redirect")),
        },
        Decision::Reply(reply) if !(200..600).contains(&reply.status) => {
            Err(format!("{} is not a final status", reply.status))
        }
        Decision::Reply(reply) => legal_headers(&reply.headers),
    }
}

fn legal_headers(headers: &[Header]) -> Result<(), String> {
    headers.iter().try_for_each(|header| legal_name(&header.name).and_then(|()| legal_value(&header.value)))
}

/// RFC 9110, 5.6.2.
fn legal_name(name: &str) -> Result<(), String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(format!("{name:?} is not the name of a header"));
    }
    if FRAMING.iter().any(|framing| name.eq_ignore_ascii_case(framing)) {
        return Err(format!("{name} belongs to the proxy"));
    }
    Ok(())
}

fn legal_value(value: &str) -> Result<(), String> {
    if value.chars().any(char::is_control) {
        return Err(format!("{value:?} has control characters"));
    }
    Ok(())
}

fn plain() -> Vec<Request> {
    vec![
        get("/"),
        get("/api/items?page=2").with_header("x-user", "7").with_header("accept", "*/*"),
        get("/cart").with_method("POST").with_cookie("session", "abc").with_header("content-length", "0"),
        get("/").with_header("x-canary", "always").with_authority("web.mesh.internal:8080"),
        get("/").with_identity("spiffe://mesh/ns/default/sa/web").with_source_address("fd00::7"),
    ]
}

fn odd() -> Vec<Request> {
    let long = "a".repeat(65_536);
    let many = (0..200).fold(get("/"), |request, i| request.with_header(&format!("x-{i}"), &long[..100]));
    vec![
        get(""),
        get("*").with_method("OPTIONS"),
        get("//..//%2e%2e/%00?&&==&%zz=%"),
        get("/caf\u{e9}/\u{1f980}?q=\u{fffd}"),
        get(&format!("/{long}")),
        get("/").with_method("").with_authority(""),
        get("/").with_authority("[fd00::7]:99999"),
        get("/").with_header("cookie", ";;=; a; =b; c=\"; d=\"\""),
        get("/").with_header("cookie", &long).with_header("x-user", ""),
        get("/").with_header("x-canary", "\u{fffd}\u{fffd}").with_header("x-canary", &long),
        get("/").with_identity("").with_source_address(""),
        many,
    ]
}

fn brief(request: &Request) -> String {
    let path: String = request.path.chars().take(40).collect();
    format!("{} {path}", request.method)
}
