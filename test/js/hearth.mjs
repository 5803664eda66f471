// Starts a Hearth of its own for a test file, and makes clients for it.
import "./node20.mjs";
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as sdk from "matrix-js-sdk";

const nothing = () => {};
const quiet = { trace: nothing, debug: nothing, info: nothing, warn: nothing, error: nothing, getChild: () => quiet };

const binary = process.env.HEARTH_BINARY ?? new URL("../../bin/hearth", import.meta.url).pathname;

async function freePort() {
  const server = createServer();
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

/** until calls fn until it returns something true, and fails after 20 seconds. */
export async function until(what, fn) {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const value = await fn();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`gave up waiting for: ${what}`);
    await new Promise((done) => setTimeout(done, 20));
  }
}

export class Hearth {
  clients = [];

  static async start() {
    const hearth = new Hearth();
    hearth.dir = await mkdtemp(join(tmpdir(), "hearth-js-"));
    const port = await freePort();
    hearth.url = `http://127.0.0.1:${port}`;
    hearth.log = "";
    hearth.process = spawn(binary, ["localserve", "--port", String(port), "--data", join(hearth.dir, "data")]);
    for (const stream of [hearth.process.stdout, hearth.process.stderr]) stream.on("data", (text) => (hearth.log += text));
    await until("the server to answer", () => fetch(`${hearth.url}/_matrix/client/versions`).then((r) => r.ok, () => false));
    return hearth;
  }

  async stop() {
    for (const client of this.clients) client.stopClient();
    const ended = new Promise((done) => this.process.once("exit", done));
    this.process.kill("SIGTERM");
    await ended;
    await rm(this.dir, { recursive: true });
  }

  /** call makes one request outside of any client library. */
  async call(method, path, body, token) {
    const response = await fetch(this.url + path, {
      method,
      headers: token ? { Authorization: `Bearer ${token}` } : {},
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const json = await response.json();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${JSON.stringify(json)}`);
    return json;
  }

  async register(name) {
    const session = await this.call("POST", "/_matrix/client/v3/register", {
      username: name, password: password(name), auth: { type: "m.login.dummy" }, initial_device_display_name: "first",
    });
    return this.client(session);
  }

  async login(name, secrets) {
    const session = await this.call("POST", "/_matrix/client/v3/login", {
      type: "m.login.password", identifier: { type: "m.id.user", user: name }, password: password(name),
    });
    return this.client(session, secrets);
  }

  /** client is a started client with its own encryption, in step with the server. */
  async client(session, secrets = {}) {
    const client = sdk.createClient({
      baseUrl: this.url, logger: quiet, userId: session.user_id, accessToken: session.access_token, deviceId: session.device_id,
      cryptoCallbacks: {
        getSecretStorageKey: async ({ keys }) => (secrets.key ? [Object.keys(keys)[0], secrets.key] : null),
        cacheSecretStorageKey: (_id, _info, key) => (secrets.key = key),
      },
    });
    this.clients.push(client);
    client.secrets = secrets;
    await client.initRustCrypto({ useIndexedDB: false });
    await client.startClient({ initialSyncLimit: 50, threadSupport: true, lazyLoadMembers: true });
    await until("the first sync", () => client.getSyncState() === "SYNCING" || client.getSyncState() === "PREPARED");
    return client;
  }
}

export const password = (name) => `the password of ${name}`;

/** received waits until a client has, and has decrypted, an event of a room that satisfies fn. */
export function received(client, roomId, what, fn) {
  return until(what, () =>
    client.getRoom(roomId)?.getLiveTimeline().getEvents().find((event) => !event.isDecryptionFailure() && !event.isBeingDecrypted() && fn(event)));
}

export const says = (text) => (event) => event.getContent().body === text;

export async function encryptedRoom(creator, guest) {
  const { room_id } = await creator.createRoom({
    preset: "private_chat", invite: [guest.getUserId()],
    initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
  });
  await until("the invite", () => guest.getRoom(room_id)?.getMyMembership() === "invite");
  await guest.joinRoom(room_id);
  for (const client of [creator, guest]) {
    await until("both to be joined", () => {
      const room = client.getRoom(room_id);
      return room?.getJoinedMemberCount() === 2 && room.hasEncryptionStateEvent();
    });
  }
  return room_id;
}
