// One question to a policy server, from Node:
//
//     npm install ws @msgpack/msgpack
//     node ask_from_node.mjs ws://127.0.0.1:8000 "pick up the alphabet soup and place it in the basket"
//
// Its API key, if it wants one, comes from the environment variable VLA0_API_KEY. Pictures and robot state are made up
// here: grey squares, zeros. Prints the answer as JSON.

import { decode, encode } from "@msgpack/msgpack";
import WebSocket from "ws";

const [url = "ws://127.0.0.1:8000", instruction = "pick up the cube"] = process.argv.slice(2);

// An array as the server takes it: raw bytes in C order, little-endian. The keys are strings, so its answer's are, too.
function array(data, dtype, shape) {
  return { __ndarray__: true, data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength), dtype, shape };
}

// (H, A) float32 as a list of H actions.
function rows({ data, dtype, shape: [height, width] }) {
  if (dtype !== "<f4") throw new Error(`actions of dtype ${dtype}`);
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength); // bytes may begin anywhere in a message
  const number = (row, column) => view.getFloat32(4 * (row * width + column), true);
  return Array.from({ length: height }, (_, row) => Array.from({ length: width }, (_, column) => number(row, column)));
}

function observe(metadata) {
  const side = metadata.resolution;
  const views = {};
  for (const view of metadata.views) {
    views[view] = array(new Uint8Array(side * side * 3).fill(128), "|u1", [side, side, 3]); // upright
  }
  const proprio = {};
  for (const [part, size] of Object.entries(metadata.proprio)) {
    proprio[part] = array(new Float32Array(size), "<f4", [size]);
  }
  return { views, instruction, proprio };
}

const key = process.env.VLA0_API_KEY;
const socket = new WebSocket(url, { headers: key ? { Authorization: `Api-Key ${key}` } : {} });

let metadata = null; // the server's first message; it comes once the model is loaded
socket.on("message", (data, isBinary) => {
  if (!isBinary) {
    console.error(`the server refuses the observation: ${data}`);
    process.exitCode = 1;
    socket.close();
  } else if (metadata === null) {
    metadata = decode(data);
    socket.send(encode(observe(metadata)));
  } else {
    const answer = decode(data);
    console.log(JSON.stringify({ ...answer, actions: rows(answer.actions) }));
    socket.close();
  }
});
socket.on("error", (error) => {
  console.error(`${url}: ${error.message}`);
  process.exitCode = 1;
});
