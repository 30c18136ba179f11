// A stand-in for the package ws, out of Node's own pieces: what docs/examples/ask_from_node.mjs uses of it.

import { randomBytes } from "node:crypto";
import { EventEmitter } from "node:events";
import { request } from "node:http";

const TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10;

export default class WebSocket extends EventEmitter {
  constructor(url, { headers = {} } = {}) {
    super();
    const upgrade = {
      Connection: "Upgrade",
      Upgrade: "websocket",
      "Sec-WebSocket-Key": randomBytes(16).toString("base64"),
      "Sec-WebSocket-Version": "13",
    };
    const asked = request(url.replace(/^ws/, "http"), { headers: { ...headers, ...upgrade } });
    asked.on("error", (error) => this.emit("error", error));
    asked.on("response", ({ statusCode }) => {
      this.emit("error", new Error(`Unexpected server response: ${statusCode}`));
      asked.destroy();
    });
    asked.on("upgrade", (_, socket, head) => {
      this.socket = socket;
      this.received = Buffer.alloc(0);
      socket.on("data", (data) => this.take(data));
      socket.on("error", (error) => this.emit("error", error));
      this.emit("open");
      this.take(head);
    });
    asked.end();
  }

  send(data) {
    this.write(BINARY, data);
  }

  close() {
    this.write(CLOSE, Buffer.from([3, 232]));
  }

  write(opcode, data) {
    const mask = randomBytes(4);
    const long = data.length >= 126;
    const head = Buffer.alloc(long ? 10 : 2);
    head[0] = 0x80 | opcode;
    head[1] = 0x80 | (long ? 127 : data.length);
    if (long) head.writeBigUInt64BE(BigInt(data.length), 2);
    this.socket.write(Buffer.concat([head, mask, Uint8Array.from(data, (byte, place) => byte ^ mask[place % 4])]));
  }

  take(data) {
    this.received = Buffer.concat([this.received, data]);
    for (let frame = this.frame(); frame !== null; frame = this.frame()) {
      if (frame.opcode === PING) this.write(PONG, frame.data);
      if (frame.opcode === CLOSE) this.socket.end();
      if (frame.opcode === TEXT || frame.opcode === BINARY) this.emit("message", frame.data, frame.opcode === BINARY);
    }
  }

  // The next whole frame that has come, or null. The server under test sends no fragments.
  frame() {
    const bytes = this.received;
    if (bytes.length < 2) return null;
    const short = bytes[1] & 0x7f;
    const start = short < 126 ? 2 : short === 126 ? 4 : 10;
    if (bytes.length < start) return null;
    const length = short < 126 ? short : short === 126 ? bytes.readUInt16BE(2) : Number(bytes.readBigUInt64BE(2));
    if (bytes.length < start + length) return null;
    this.received = bytes.subarray(start + length);
    return { opcode: bytes[0] & 0x0f, data: bytes.subarray(start, start + length) };
  }
}
