//! Drives the embedded registry with the crate `rs-consul`: `rs-consul-client URL`.

use std::collections::HashMap;
use std::time::Duration;

use rs_consul::types::{
    CreateOrUpdateKeyRequest, DeleteKeyRequest, DeregisterEntityPayload, GetNodesRequest,
    GetServiceNodesRequest, LockRequest, QueryOptions, ReadKeyRequest, RegisterEntityCheck,
    RegisterEntityPayload, RegisterEntityService,
};
use rs_consul::{Config, Consul};

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let address = std::env::args().nth(1).ok_or("the URL of a registry is missing")?;
    let consul = Consul::new(Config { address, token: None, ..Config::default() });
    keys(&consul).await?;
    services(&consul).await?;
    println!("rs-consul: all as expected");
    Ok(())
}

async fn keys(consul: &Consul) -> Outcome {
    let request = CreateOrUpdateKeyRequest { key: "app/a", ..Default::default() };
    assert!(consul.create_or_update_key(request, b"one".to_vec()).await?.0);
    let read = ReadKeyRequest { key: "app/a", ..Default::default() };
    let found = consul.read_key(read.clone()).await?;
    assert_eq!(found.response[0].value.as_deref(), Some("one"));
    assert_eq!(found.index, u64::try_from(found.response[0].modify_index)?);

    // A blocking read that a change ends.
    let waiting = ReadKeyRequest { index: Some(found.index), wait: Duration::from_secs(30), ..read.clone() };
    let change = CreateOrUpdateKeyRequest { key: "app/a", ..Default::default() };
    let (seen, changed) =
        tokio::join!(consul.read_key(waiting), consul.create_or_update_key(change, b"two".to_vec()));
    assert!(changed?.0);
    let seen = seen?;
    assert_eq!(seen.response[0].value.as_deref(), Some("two"));
    assert!(seen.index > found.index);

    let stale = CreateOrUpdateKeyRequest { key: "app/a", check_and_set: Some(0), ..Default::default() };
    assert!(!consul.create_or_update_key(stale, b"three".to_vec()).await?.0);
    let lock = LockRequest { key: "lock", lock_delay: Duration::from_secs(1), ..Default::default() };
    drop(consul.get_lock(lock, b"held").await?);
    assert!(consul.delete_key(DeleteKeyRequest { key: "app/", recurse: true, ..Default::default() }).await?);
    assert!(consul.read_key(read).await.is_err(), "not there any more");
    Ok(())
}

async fn services(consul: &Consul) -> Outcome {
    let check = RegisterEntityCheck {
        Node: None,
        CheckID: Some("up".into()),
        Name: "up".into(),
        Notes: None,
        Status: Some("passing".into()),
        ServiceID: Some("db-1".into()),
        Definition: HashMap::new(),
    };
    let service = RegisterEntityService {
        ID: Some("db-1".into()),
        Service: "db".into(),
        Tags: vec!["main".into()],
        TaggedAddresses: HashMap::new(),
        Meta: HashMap::from([("zone".into(), "z1".into())]),
        Port: Some(5432),
        Namespace: None,
    };
    let payload = RegisterEntityPayload {
        ID: None,
        Node: "db-node".into(),
        Address: "10.0.0.9".into(),
        Datacenter: None,
        TaggedAddresses: HashMap::new(),
        NodeMeta: HashMap::new(),
        Service: Some(service),
        Checks: vec![check],
        SkipNodeUpdate: None,
    };
    consul.register_entity(&payload).await?;
    let names = consul.get_all_registered_service_names(None).await?;
    assert!(names.response.iter().any(|name| name == "db"));
    let request = GetServiceNodesRequest { service: "db", passing: true, ..Default::default() };
    let nodes = consul.get_service_nodes(request, None).await?;
    let found = &nodes.response[0];
    assert_eq!((found.service.id.as_str(), found.service.port), ("db-1", 5432));
    assert_eq!(found.node.address, "10.0.0.9");
    let options = QueryOptions {
        index: Some(nodes.index),
        // In whole seconds, by this client; 0 would mean the five minutes of the default.
        wait: Some(Duration::from_secs(1)),
        ..Default::default()
    };
    let request = GetServiceNodesRequest { service: "db", passing: true, ..Default::default() };
    assert_eq!(consul.get_service_nodes(request, Some(options)).await?.index, nodes.index);
    let addresses = consul.get_service_addresses_and_ports("db", None).await?;
    assert_eq!(addresses, [("10.0.0.9".to_owned(), 5432)]);
    let all = consul.get_nodes(GetNodesRequest::default(), None).await?;
    assert!(all.response.iter().any(|node| node.node == "db-node"));

    let gone = DeregisterEntityPayload {
        Node: Some("db-node".into()),
        Datacenter: None,
        CheckID: None,
        ServiceID: None,
        Namespace: None,
    };
    consul.deregister_entity(&gone).await?;
    assert!(consul.get_service_addresses_and_ports("db", None).await?.is_empty());
    Ok(())
}
