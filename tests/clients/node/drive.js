// Drives the embedded registry with the npm client `consul`: node drive.js HOST PORT
"use strict";

const assert = require("node:assert/strict");
const Consul = require("consul");

const [host, port] = process.argv.slice(2);
const consul = new Consul({ host, port: Number(port) });

/** The next event of an emitter. */
const next = (emitter, event) => new Promise((done) => emitter.once(event, (...values) => done(values)));

async function agent() {
  await consul.agent.service.register({
    name: "web",
    id: "web-1",
    address: "10.0.0.7",
    port: 8080,
    tags: ["blue", "v1"],
    meta: { zone: "z1" },
    check: { ttl: "30s", deregistercriticalserviceafter: "2m", notes: "beats" },
  });
  let services = await consul.agent.services();
  assert.deepEqual(services["web-1"].Tags, ["blue", "v1"]);
  assert.equal(services["web-1"].Meta.zone, "z1");
  let checks = await consul.agent.checks();
  assert.equal(checks["service:web-1"].Status, "critical");
  await consul.agent.check.pass({ id: "service:web-1", note: "well" });
  checks = await consul.agent.checks();
  assert.equal(checks["service:web-1"].Status, "passing");
  assert.equal(checks["service:web-1"].Output, "well");
  await consul.agent.check.warn("service:web-1");
  await consul.agent.check.fail("service:web-1");
  await consul.agent.check.pass("service:web-1");
  await consul.agent.check.register({ name: "disk", ttl: "15s", serviceid: "web-1" });
  await consul.agent.check.deregister("disk");
  await consul.agent.service.maintenance({ id: "web-1", enable: true, reason: "upgrade" });
  assert.equal((await consul.health.service({ service: "web", passing: true })).length, 0);
  await consul.agent.service.maintenance({ id: "web-1", enable: false });
  await consul.agent.maintenance({ enable: true });
  await consul.agent.maintenance({ enable: false });
  assert.equal((await consul.agent.members()).length, 1);
  assert.equal((await consul.agent.self()).Config.Datacenter, "dc1");
}

async function catalogue() {
  assert.deepEqual(await consul.catalog.datacenters(), ["dc1"]);
  assert.deepEqual((await consul.catalog.services()).web.sort(), ["blue", "v1"]);
  const [row] = await consul.catalog.service.nodes({ service: "web", tag: "blue" });
  assert.equal(row.ServiceAddress, "10.0.0.7");
  assert.equal(row.ServicePort, 8080);
  await consul.catalog.register({ node: "db1", address: "10.0.0.9", service: { service: "db", port: 5432 } });
  const nodes = (await consul.catalog.node.list()).map((node) => node.Node);
  assert.ok(nodes.includes("db1"));
  assert.equal((await consul.catalog.node.services("db1")).Services.db.Port, 5432);
  await consul.catalog.deregister("db1");
  assert.equal((await consul.catalog.node.list()).length, nodes.length - 1);
}

async function health() {
  const [entry] = await consul.health.service({ service: "web", passing: true, tag: "v1" });
  assert.equal(entry.Service.ID, "web-1");
  assert.equal(entry.Checks.find((check) => check.ServiceID === "web-1").Status, "passing");
  assert.equal((await consul.health.checks("web")).length, 1);
  assert.ok((await consul.health.node(entry.Node.Node)).length >= 2);
  assert.ok((await consul.health.state("passing")).length >= 2);
  assert.deepEqual(await consul.health.service({ service: "none" }), []);
}

async function keys() {
  assert.equal(await consul.kv.set("app/a", "1"), true);
  assert.equal(await consul.kv.set({ key: "app/b c", value: "zwei ü", flags: 7 }), true);
  const entry = await consul.kv.get("app/b c");
  assert.equal(entry.Value, "zwei ü");
  assert.equal(entry.Flags, 7);
  assert.equal(await consul.kv.get("app/none"), undefined);
  assert.deepEqual(await consul.kv.keys("app/"), ["app/a", "app/b c"]);
  assert.equal((await consul.kv.get({ key: "app/", recurse: true })).length, 2);
  // The client makes `undefined` of `false`.
  assert.ok(!(await consul.kv.set({ key: "app/a", value: "2", cas: "0" })));
  const results = await consul.transaction.create([{ KV: { Verb: "set", Key: "app/t", Value: "eA==" } }]);
  assert.equal(results.Results[0].KV.Key, "app/t");
  await consul.kv.del({ key: "app/", recurse: true });
  assert.equal(await consul.kv.get("app/a"), undefined);
}

async function sessions() {
  const { ID: session } = await consul.session.create({ name: "me", lockdelay: "0s", ttl: "30s" });
  assert.equal(await consul.kv.set({ key: "lock", value: "me", acquire: session }), true);
  assert.equal((await consul.kv.get("lock")).Session, session);
  assert.equal((await consul.session.renew(session))[0].ID, session);
  assert.equal((await consul.session.get(session)).Name, "me");
  assert.equal((await consul.session.list()).length, 1);
  assert.equal(await consul.kv.set({ key: "lock", value: "", release: session }), true);
  await consul.session.destroy(session);
}

/** The client's own watch: it follows `X-Consul-Index`. */
async function watches() {
  const watch = consul.watch({
    method: consul.health.service,
    options: { service: "web", passing: true, wait: "30s" },
  });
  watch.on("error", (error) => assert.fail(error));
  const [first] = await next(watch, "change");
  assert.equal(first.length, 1);
  const changed = next(watch, "change");
  await consul.agent.check.fail("service:web-1");
  const [second] = await changed;
  assert.equal(second.length, 0);
  watch.end();
}

async function main() {
  assert.ok((await consul.status.leader()).includes(":"));
  assert.equal((await consul.status.peers()).length, 1);
  await agent();
  await catalogue();
  await health();
  await keys();
  await sessions();
  await watches();
  await consul.agent.service.deregister("web-1");
  assert.deepEqual(await consul.agent.services(), {});
  console.log("npm consul: all as expected");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
