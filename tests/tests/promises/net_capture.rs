//! Capture in a workload's namespace: what goes to the sidecar, what does not, and the table as nftables itself has it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

use outrigger_tests::netlab::{Lab, OUTSIDE6, ask, ask_udp, ip, serve, serve_udp};
use outrigger_tests::netns::Host;
use outrigger_tests::netrun::has_table;
use outrigger_tests::program::say;
use outrigger_tests::wait;

const SIDECAR: u32 = 1337;

fn file(host: &Host, capture: &str) -> String {
    let path = host.path();
    format!(
        "networks:\n  web: {{subnets: [10.88.0.0/24, 'fd88::/64']}}\n\
         workloads:\n  a: {{namespace: {{path: {}}}, network: web, capture: {{{capture}}}}}\n",
        path.display()
    )
}

/// Listens where the sidecar would, and tells each client where it had meant to go.
fn sidecar(host: &Host, port: u16) {
    let listener = host.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = write!(stream, "captured for {}", meant_for(&stream));
        }
    });
}

fn meant_for(stream: &TcpStream) -> String {
    let socket = socket2::SockRef::from(stream);
    let original = socket.original_dst_v4().or_else(|_| socket.original_dst_v6()).unwrap();
    original.as_socket().unwrap().to_string()
}

/// Asked by a program with this user.
fn ask_as(host: &Host, user: u32, address: IpAddr, port: u16) -> String {
    ask_with(host, &[&format!("--reuid={user}")], address, port)
}

fn ask_with(host: &Host, options: &[&str], address: IpAddr, port: u16) -> String {
    let script = format!("exec 3<>/dev/tcp/{address}/{port}; cat <&3");
    let mut command = host.command("setpriv");
    say(command.args(options).args(["--clear-groups", "timeout", "5", "bash", "-c", &script])).out
}

/// Asked by a socket with this mark.
fn ask_marked(host: &Host, mark: u32, address: IpAddr, port: u16) -> String {
    let mut stream = host.enter(|| {
        let of = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
        let socket = socket2::Socket::new(of, socket2::Type::STREAM, None).unwrap();
        socket.set_mark(mark).unwrap();
        socket.connect_timeout(&SocketAddr::new(address, port).into(), Duration::from_secs(5)).unwrap();
        TcpStream::from(socket)
    });
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

/// The sidecar's own traffic by each of the ways to tell it, and what the file lets through by group, mark and link.
#[test]
fn what_is_let_through_is_told_by_group_mark_and_link() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let told = "sidecar: {uid: 5, gid: 6, mark: 7}, except_outbound: {gids: [9], marks: [10]}";
    lab.apply(&file(&a, told));
    sidecar(&a, 15001);
    serve(&lab.outside, 80);
    let outsides = [IpAddr::from(lab.outside.address), OUTSIDE6.parse().unwrap()];
    for outside in outsides {
        for (group, passes) in [("6", true), ("9", true), ("8", false)] {
            let said = ask_with(&a, &["--regid", group], outside, 80);
            assert_eq!((said.is_empty(), !said.contains("captured")), (false, passes), "{group}: {said}");
        }
        for (mark, passes) in [(7, true), (10, true), (8, false)] {
            let said = ask_marked(&a, mark, outside, 80);
            assert_eq!(!said.contains("captured"), passes, "{mark}: {said}");
        }
    }
    // The same link in either direction.
    lab.apply(&file(&a, "except_outbound: {interfaces: [eth0]}, except_inbound: {interfaces: [eth0]}"));
    sidecar(&a, 15006);
    serve(&a, 80);
    for (outside, is_ipv4) in outsides.into_iter().zip([true, false]) {
        assert!(!ask(&a, outside, 80).unwrap().contains("captured"));
        assert!(!ask(&lab.node, lab.address("a", is_ipv4), 80).unwrap().contains("captured"));
    }
}

/// To a server outside and to one in the workload, each with its answer.
#[test]
fn other_udp_passes_in_both_directions() {
    let Some(mut lab) = Lab::new() else { return };
    for mode in ["redirect", "tproxy"] {
        let a = lab.workload(mode);
        lab.apply(&file(&a, &format!("mode: {mode}")));
        for (outside, is_ipv4) in
            [(IpAddr::from(lab.outside.address), true), (OUTSIDE6.parse().unwrap(), false)]
        {
            let any: IpAddr =
                if is_ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = |host: &Host| host.enter(|| UdpSocket::bind((any, 0)).unwrap());
            let there = SocketAddr::new(outside, if mode == "tproxy" { 7001 } else { 7000 });
            serve_udp(&lab.outside, there);
            assert!(ask_udp(&socket(&a), there).is_some(), "{mode}: {there}");
            let own = SocketAddr::new(lab.address("a", is_ipv4), 7000);
            serve_udp(&a, own);
            assert!(ask_udp(&socket(&lab.node), own).is_some(), "{mode}: {own}");
        }
        lab.undo();
    }
}

#[test]
fn what_the_workload_sends_goes_to_the_sidecar() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    lab.apply(&file(
        &a,
        "except_outbound: {ports: ['90-91'], ranges: [10.77.0.1], uids: [77]}, except_inbound: {ports: ['22']}",
    ));
    sidecar(&a, 15001);
    for port in [80, 90] {
        serve(&lab.outside, port);
    }
    serve(&lab.node, 80);
    for (outside, shown) in
        [(IpAddr::from(lab.outside.address), "10.77.0.2:80"), (OUTSIDE6.parse().unwrap(), "[fd99::2]:80")]
    {
        let captured = format!("captured for {shown}");
        assert_eq!(ask(&a, outside, 80), Some(captured.clone()));
        assert_eq!(ask_as(&a, 0, outside, 80), captured);
        for user in [SIDECAR, 77] {
            let untouched = ask_as(&a, user, outside, 80);
            assert!(!untouched.is_empty() && !untouched.contains("captured"), "{user}: {untouched}");
        }
        let let_through = ask(&a, outside, 90).expect("the port is let through");
        assert!(!let_through.contains("captured"), "{let_through}");
    }
    // The gateway's network is let through by its address.
    assert!(!ask(&a, lab.node.address, 80).unwrap().contains("captured"));
    // To an address that nobody has.
    assert_eq!(ask(&a, Ipv4Addr::new(240, 1, 2, 3), 80).as_deref(), Some("captured for 240.1.2.3:80"));
    serve(&a, 70);
    assert_eq!(ask(&a, Ipv4Addr::LOCALHOST, 70).as_deref(), Some("127.0.0.1"), "loopback is its own");
}

#[test]
fn what_comes_to_the_workload_goes_to_the_sidecar() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    lab.apply(&file(&a, "except_inbound: {ports: ['22'], ranges: ['fd88::1']}"));
    sidecar(&a, 15006);
    for port in [22, 80] {
        serve(&a, port);
    }
    let (at4, at6) = (lab.address("a", true), lab.address("a", false));
    assert_eq!(ask(&lab.node, at4, 80), Some(format!("captured for {at4}:80")));
    assert_eq!(ask(&lab.node, at4, 22).as_deref(), Some("10.88.0.1"), "the port is let in");
    assert_eq!(ask(&lab.node, at6, 80).as_deref(), Some("fd88::1"), "the source is let in");
}

#[test]
fn dns_goes_to_the_sidecar_also_for_sockets_that_were_there_before() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let plain = file(&a, "").replace(", capture: {}", "");
    lab.apply(&plain);
    // Something tracks connections already, so a flow that goes past the rules would be remembered.
    let rules =
        "table inet early { chain out { type filter hook output priority 0; ct state new accept; }; }";
    assert!(a.command("nft").arg(rules).status().unwrap().success());
    let resolver = SocketAddr::from((lab.outside.address, 53));
    serve_udp(&lab.outside, resolver);
    let old = a.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    let own = lab.address("a", true).to_string();
    let straight = ask_udp(&old, resolver).expect("the resolver answers");
    assert_eq!(straight, lab.node.address.to_string(), "masqueraded on its way");
    lab.apply(&file(&a, ""));
    serve_udp(&a, (Ipv4Addr::LOCALHOST, 15053).into());
    assert_eq!(ask_udp(&old, resolver).as_ref(), Some(&own), "the sidecar answers the old socket");
    serve_udp(&a, (Ipv6Addr::LOCALHOST, 15053).into());
    for address in ["127.0.0.11", "127.0.0.53", "240.9.9.9", "::1", "fd77:9::9"] {
        let address: IpAddr = address.parse().unwrap();
        let any: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let fresh = a.enter(|| UdpSocket::bind((any, 0)).unwrap());
        assert!(ask_udp(&fresh, (address, 53).into()).is_some(), "{address}");
    }
    lab.apply(&plain);
    assert_eq!(ask_udp(&old, resolver), Some(straight), "and the resolver again, when the capture is gone");
}

/// An established connection does not notice that the table is replaced, and a flush is repaired.
#[test]
fn connections_outlive_a_new_table() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    lab.apply(&file(&a, ""));
    let listener = a.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 15001)).unwrap());
    let to = SocketAddr::from((lab.outside.address, 80));
    let mut client = a.enter(|| TcpStream::connect(to).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    let mut echo = |text: &[u8]| {
        client.write_all(text).unwrap();
        let mut got = vec![0; text.len()];
        server.read_exact(&mut got).unwrap();
        server.write_all(&got).unwrap();
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, text);
    };
    echo(b"before");
    lab.apply(&file(&a, "except_outbound: {ports: ['99']}"));
    echo(b"replaced");
    // Somebody adds a rule of his own to our table: it is gone after the next run, and the connection is not.
    let rule = ["add", "rule", "inet", "outrigger", "outbound", "counter"];
    assert!(a.command("nft").args(rule).status().unwrap().success());
    lab.apply(&file(&a, "except_outbound: {ports: ['99']}"));
    echo(b"repaired");
    lab.net(&["status"]).expect_ok("status");
}

/// Listens as a sidecar would, in either mode.
fn listen(host: &Host, port: u16) -> TcpListener {
    host.enter(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        socket.set_ip_transparent_v4(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into()).unwrap();
        socket.listen(8).unwrap();
        socket.into()
    })
}

#[test]
fn a_capture_goes_when_what_it_carries_has_ended() {
    let Some(mut lab) = Lab::new() else { return };
    serve(&lab.outside, 80);
    for mode in ["redirect", "tproxy"] {
        let a = lab.workload(mode);
        lab.apply(&file(&a, &format!("mode: {mode}")));
        let (out, into) = (listen(&a, 15001), listen(&a, 15006));
        let outside: [IpAddr; 2] = [lab.outside.address.into(), OUTSIDE6.parse().unwrap()];
        let mut open = Vec::new();
        for (outside, is_ipv4) in outside.into_iter().zip([true, false]) {
            let dial = |from: &Host, to: IpAddr| from.enter(|| TcpStream::connect((to, 80)).unwrap());
            open.push((dial(&a, outside), out.accept().unwrap().0));
            open.push((dial(&lab.node, lab.address("a", is_ipv4)), into.accept().unwrap().0));
        }
        let mut undo = lab.command(&["undo", "--drain", "60"]).stdout(Stdio::piped()).spawn().unwrap();
        for outside in outside {
            let passes = || ask(&a, outside, 80).is_some_and(|said| !said.contains("captured"));
            wait::until_true("what is new to go past the sidecar", passes);
        }
        for (client, server) in &mut open {
            let mut byte = [0];
            client.write_all(b"?").unwrap();
            server.read_exact(&mut byte).unwrap();
            server.write_all(b"!").unwrap();
            client.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"!", "{mode}");
        }
        assert!(undo.try_wait().unwrap().is_none(), "{mode}: it waits");
        // With what was asked a moment too early, and nobody has taken.
        drop((open, out, into));
        let ended = wait::until("undo to end", || undo.try_wait().unwrap());
        assert!(ended.success() && !has_table(&a), "{mode}");
    }
}

/// What we send by netlink is what `nft` makes of the same text.
#[test]
fn the_tables_are_what_nft_would_have_made() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b, witness) = (lab.workload("a"), lab.workload("b"), lab.workload("witness"));
    let capture = "sidecar: {uid: 5, gid: 6, mark: 7}, except_outbound: {ports: ['1', '8000-8099'], \
                   ranges: [10.0.0.0/9, 'fd00::/9', 192.0.2.1, '2001:db8::1'], uids: [8], gids: [9], marks: [10], \
                   interfaces: [eth9]}, except_inbound: {ports: ['22'], ranges: [10.0.0.0/8], interfaces: [eth8]}";
    let publish = ", publish: ['8080:80', '53/udp', '127.0.0.1:81:80', '[fd99::1]:82:80/udp']";
    let text = file(&a, capture).replace(", capture", &format!("{publish}, capture")).replace(
        "workloads:",
        "  open: {subnets: [10.89.0.0/24], isolated: false, masquerade: false}\n  two: {subnets: ['fd89::/64']}\nworkloads:",
    );
    let untranslated = file(&b, &format!("mode: tproxy, {capture}"));
    let text = text + &untranslated.lines().last().unwrap().replacen("a:", "b:", 1) + "\n";
    let plan = lab.net(&["plan", &lab.write(&text), "--rules"]).expect_ok("plan").out;
    lab.apply(&text);
    let parts: Vec<&str> = plan.split("\n# ").skip(1).collect();
    assert_eq!(parts.len(), 3, "{plan}");
    for (part, host) in parts.iter().zip([&lab.node, &a, &b]) {
        let rules = part.split_once('\n').unwrap().1;
        let path = lab.dir.path().join("rules.nft");
        std::fs::write(&path, rules).unwrap();
        let load = say(witness.command("nft").arg("-f").arg(&path));
        load.expect_ok(rules);
        let list = |host: &Host| say(host.command("nft").args(["list", "ruleset"])).expect_ok("list").out;
        assert_eq!(sorted(&list(host)), sorted(&list(&witness)), "{rules}");
        assert!(witness.command("nft").args(["flush", "ruleset"]).status().unwrap().success());
    }
    ip(&witness, &["link"]);
}

/// Elements of sets come in any order.
fn sorted(list: &str) -> Vec<String> {
    let sort = |line: &str| {
        let mut words: Vec<&str> = line.split(", ").map(str::trim).collect();
        words.sort_unstable();
        words.join(", ")
    };
    list.replace("elements = {", "").replace(" }", "").replace(",\n", ", ").lines().map(sort).collect()
}
