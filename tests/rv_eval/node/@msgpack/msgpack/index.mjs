// A stand-in for the package @msgpack/msgpack: what docs/examples/ask_from_node.mjs uses of it. Like the package's, its maps
// have strings as keys: `encode` writes no others, `decode` throws at bytes.

export function encode(value) {
  return new Uint8Array(Buffer.concat(parts(value)));
}

function parts(value) {
  if (value === null || value === undefined) return [Buffer.from([0xc0])];
  if (value === false) return [Buffer.from([0xc2])];
  if (value === true) return [Buffer.from([0xc3])];
  if (typeof value === "number" && Number.isInteger(value) && value >= 0) return [head(0xce, value)];
  if (typeof value === "number") {
    const bytes = Buffer.alloc(9, 0xcb);
    bytes.writeDoubleBE(value, 1);
    return [bytes];
  }
  if (typeof value === "string") return [head(0xdb, Buffer.byteLength(value)), Buffer.from(value)];
  if (value instanceof Uint8Array) return [head(0xc6, value.length), value];
  if (Array.isArray(value)) return [head(0xdd, value.length), ...value.flatMap(parts)];
  return [head(0xdf, Object.keys(value).length), ...Object.entries(value).flat().flatMap(parts)];
}

function head(type, number) {
  const bytes = Buffer.alloc(5, type);
  bytes.writeUInt32BE(number, 1);
  return bytes;
}

export function decode(data) {
  let place = 0;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);

  function number(method, size) {
    place += size;
    return Number(view[method](place - size));
  }
  function bytes(length) {
    place += length;
    return new Uint8Array(data.buffer, data.byteOffset + place - length, length);
  }
  const text = (length) => Buffer.from(bytes(length)).toString("utf8");
  const list = (length) => Array.from({ length }, () => next());
  function map(length) {
    const found = {};
    for (let entry = 0; entry < length; entry++) {
      const key = next();
      if (typeof key !== "string") throw new Error(`The type of key must be string or number but ${typeof key}`);
      found[key] = next();
    }
    return found;
  }
  function next() {
    const type = number("getUint8", 1);
    if (type < 0x80) return type;
    if (type < 0x90) return map(type & 0x0f);
    if (type < 0xa0) return list(type & 0x0f);
    if (type < 0xc0) return text(type & 0x1f);
    if (type >= 0xe0) return type - 256;
    switch (type) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return bytes(number("getUint8", 1));
      case 0xc5: return bytes(number("getUint16", 2));
      case 0xc6: return bytes(number("getUint32", 4));
      case 0xca: return number("getFloat32", 4);
      case 0xcb: return number("getFloat64", 8);
      case 0xcc: return number("getUint8", 1);
      case 0xcd: return number("getUint16", 2);
      case 0xce: return number("getUint32", 4);
      case 0xcf: return number("getBigUint64", 8);
      case 0xd0: return number("getInt8", 1);
      case 0xd1: return number("getInt16", 2);
      case 0xd2: return number("getInt32", 4);
      case 0xd3: return number("getBigInt64", 8);
      case 0xd9: return text(number("getUint8", 1));
      case 0xda: return text(number("getUint16", 2));
      case 0xdb: return text(number("getUint32", 4));
      case 0xdc: return list(number("getUint16", 2));
      case 0xdd: return list(number("getUint32", 4));
      case 0xde: return map(number("getUint16", 2));
      case 0xdf: return map(number("getUint32", 4));
      default: throw new Error(`Unrecognized type byte: 0x${type.toString(16)}`);
    }
  }
  return next();
}
