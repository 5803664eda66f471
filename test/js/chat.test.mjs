// Two people chat with matrix-js-sdk and its Rust crypto.
import assert from "node:assert/strict";
import { createCipheriv, randomBytes } from "node:crypto";
import { after, before, test } from "node:test";
import { Hearth, encryptedRoom, password, received, says, until } from "./hearth.mjs";

let hearth, alice, bob, roomId;

before(async () => {
  hearth = await Hearth.start();
  alice = await hearth.register("alice.js");
  bob = await hearth.register("bob.js");
  roomId = await encryptedRoom(alice, bob);
});

after(async () => {
  await hearth.stop();
});

const text = (body, more = {}) => ({ msgtype: "m.text", body, ...more });

test("messages go both ways, encrypted", async () => {
  await alice.sendMessage(roomId, text("hello bob"));
  const seen = await received(bob, roomId, "alice's message", says("hello bob"));
  assert.equal(seen.getWireType(), "m.room.encrypted");
  await bob.sendMessage(roomId, text("hello alice"));
  await received(alice, roomId, "bob's message", says("hello alice"));
});

test("cross-signing, secret storage and key backup; a second device reads the past", async () => {
  const crypto = alice.getCrypto();
  await crypto.bootstrapCrossSigning({
    authUploadDeviceSigningKeys: async (request) => {
      await request(null); // the first upload asks for no authentication
    },
  });
  const recovery = await crypto.createRecoveryKeyFromPassphrase();
  alice.secrets.key = recovery.privateKey;
  await crypto.bootstrapSecretStorage({ createSecretStorageKey: async () => recovery, setupNewSecretStorage: true, setupNewKeyBackup: true });
  await crypto.checkKeyBackupAndEnable();
  await alice.sendMessage(roomId, text("before the second device"));
  await until("the keys to be in the backup", async () => {
    const info = await crypto.getKeyBackupInfo();
    return info && (await hearth.call("GET", `/_matrix/client/v3/room_keys/keys?version=${info.version}`, undefined, alice.getAccessToken())).rooms[roomId];
  });

  const second = await hearth.login("alice.js", { key: recovery.privateKey });
  assert.ok(await second.getCrypto().userHasCrossSigningKeys(alice.getUserId(), true)); // which fetches them
  await second.getCrypto().bootstrapCrossSigning({});
  await second.getCrypto().loadSessionBackupPrivateKeyFromSecretStorage();
  const restored = await second.getCrypto().restoreKeyBackup();
  assert.ok(restored.imported > 0, "nothing was restored");
  await received(second, roomId, "the past", says("before the second device"));

  await until("the first device to trust the second", async () =>
    (await crypto.getDeviceVerificationStatus(alice.getUserId(), second.getDeviceId()))?.crossSigningVerified);
  await bob.sendMessage(roomId, text("for both devices"));
  for (const client of [alice, second]) await received(client, roomId, "a message for both", says("for both devices"));
});

test("replacing the cross-signing keys asks for the password", async () => {
  let asked = false;
  await alice.getCrypto().bootstrapCrossSigning({
    setupNewCrossSigning: true,
    authUploadDeviceSigningKeys: async (request) => {
      const challenge = await request(null).catch((error) => error);
      assert.equal(challenge.httpStatus, 401);
      asked = true;
      await request({
        type: "m.login.password", session: challenge.data.session, password: password("alice.js"),
        identifier: { type: "m.id.user", user: alice.getUserId() },
      });
    },
  });
  assert.ok(asked);
});

test("an encrypted attachment travels through authenticated media", async () => {
  const key = randomBytes(32), iv = Buffer.concat([randomBytes(8), Buffer.alloc(8)]);
  const plain = randomBytes(100_000);
  const cipher = createCipheriv("aes-256-ctr", key, iv);
  const secret = Buffer.concat([cipher.update(plain), cipher.final()]);
  const { content_uri } = await alice.uploadContent(secret, { type: "application/octet-stream", includeFilename: false });
  await alice.sendMessage(roomId, { msgtype: "m.file", body: "notes.bin", file: { url: content_uri, iv: iv.toString("base64") } });
  const event = await received(bob, roomId, "the attachment", says("notes.bin"));
  const url = bob.mxcUrlToHttp(event.getContent().file.url, undefined, undefined, undefined, false, true, true);
  assert.equal((await fetch(url)).status, 401, "media was given out without a token");
  const response = await fetch(url, { headers: { Authorization: `Bearer ${bob.getAccessToken()}` } });
  assert.equal(response.status, 200);
  assert.deepEqual(Buffer.from(await response.arrayBuffer()), secret);
});

test("edits, reactions, threads, redactions and receipts", async () => {
  const { event_id: original } = await alice.sendMessage(roomId, text("teh plan"));
  await received(bob, roomId, "the original", says("teh plan"));

  await alice.sendMessage(roomId, text("* the plan", {
    "m.new_content": text("the plan"), "m.relates_to": { rel_type: "m.replace", event_id: original },
  }));
  await until("the edit", () => bob.getRoom(roomId).findEventById(original)?.replacingEvent()?.getContent()["m.new_content"]?.body === "the plan");

  const { event_id: reaction } = await bob.sendEvent(roomId, "m.reaction", { "m.relates_to": { rel_type: "m.annotation", event_id: original, key: "👍" } });
  const reactions = () =>
    alice.getRoom(roomId).relations.getChildEventsForEvent(original, "m.annotation", "m.reaction")?.getRelations().map((event) => event.getRelation().key) ?? [];
  await until("the reaction", () => reactions().join() === "👍");

  const { event_id: reply } = await bob.sendMessage(roomId, original, text("in the thread"));
  await until("the thread", () => alice.getRoom(roomId).getThread(original)?.events.some((event) => event.getId() === reply && event.getContent().body === "in the thread"));
  const threads = await hearth.call("GET", `/_matrix/client/v1/rooms/${encodeURIComponent(roomId)}/threads`, undefined, alice.getAccessToken());
  assert.equal(threads.chunk[0].event_id, original);
  assert.equal(threads.chunk[0].unsigned["m.relations"]["m.thread"].count, 1);

  await bob.redactEvent(roomId, reaction);
  await until("the reaction to go", () => reactions().length === 0);

  await bob.sendReadReceipt(bob.getRoom(roomId).findEventById(original));
  await until("the receipt", () => alice.getRoom(roomId).getReadReceiptForUserId(bob.getUserId(), true)?.eventId === original);
});

test("the signalling of a call", async () => {
  const call = { call_id: "c1", party_id: "p1", version: "1" };
  await alice.sendEvent(roomId, "m.call.invite", { ...call, lifetime: 60000, offer: { type: "offer", sdp: "v=0" } });
  const invite = await received(bob, roomId, "the call", (event) => event.getType() === "m.call.invite");
  assert.equal(invite.getContent().offer.sdp, "v=0");
  await bob.sendEvent(roomId, "m.call.answer", { ...call, party_id: "p2", answer: { type: "answer", sdp: "v=0" } });
  await received(alice, roomId, "the answer", (event) => event.getType() === "m.call.answer");
  await alice.sendEvent(roomId, "m.call.hangup", { ...call, reason: "user_hangup" });
  await received(bob, roomId, "the end of the call", (event) => event.getType() === "m.call.hangup");
});
