import { Endpoint, SessionError } from "@cut-through/core"
import { assert, describe, it } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Hash from "effect/Hash"
import * as Schema from "effect/Schema"

const int = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

const port = Arbitrary.schema(int(65_535))
const octet = Arbitrary.schema(int(255))
// Zeros are what is written in more than one way.
const group = Arbitrary.map(Arbitrary.all([Arbitrary.schema(int(2)), Arbitrary.schema(int(65_535))]), ([kind, value]) =>
  kind === 0 ? 0 : value
)
const v4 = Arbitrary.map(Arbitrary.all([octet, octet, octet, octet]), (octets) => octets.join("."))
const v6 = Arbitrary.map(Arbitrary.all([group, group, group, group, group, group, group, group]), (groups) =>
  groups.map((value) => value.toString(16)).join(":")
)

const wordsOf = (address: string) => Endpoint.addressWords(Endpoint.tcp(address, 7000))

const numberOf = (words: ReadonlyArray<number>) =>
  words.reduce((number, word) => (number << 32n) | BigInt(word >>> 0), 0n)

const parsed = (address: string) => {
  const [separator, bits, radix] = address.includes(":") ? [":", 16n, 16] : [".", 8n, 10]
  return address.split(separator).reduce((number, part) => (number << bits) | BigInt(Number.parseInt(part, radix)), 0n)
}

const thrownBy = (run: () => unknown): unknown => {
  try {
    run()
  } catch (error) {
    return error
  }
  return assert.fail("nothing was thrown")
}

const messageOf = (run: () => unknown): string => {
  const error = thrownBy(run)
  assert.instanceOf(error, SessionError.SessionError)
  assert.strictEqual(error.reason._tag, "InvalidArgument")
  return error.message
}

describe("Endpoint", () => {
  describe("makes", () => {
    it("an endpoint of an address and a port", () => {
      const endpoint = Endpoint.tcp("127.0.0.1", 7000)
      assert.strictEqual(endpoint.port, 7000)
      assert.strictEqual(Endpoint.format(endpoint), "127.0.0.1:7000")
      assert.strictEqual(Endpoint.format(Endpoint.tcp("::1", 0)), "[::1]:0")
      assert.strictEqual(Endpoint.format(Endpoint.tcp("localhost", 65_535)), "127.0.0.1:65535")
    })

    it("an endpoint of a text", () => {
      for (const [text, formatted] of [
        ["tcp://127.0.0.1:7000", "127.0.0.1:7000"],
        ["tcp://localhost:7000", "127.0.0.1:7000"],
        ["tcp://0.0.0.0:0", "0.0.0.0:0"],
        ["tcp://[::1]:7000", "[::1]:7000"],
        ["tcp://[::1]:7000/", "[::1]:7000"],
        ["tcp://[FE80:0:0::1]:1", "[fe80::1]:1"],
        ["tcp://[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.1]:80"]
      ]) {
        assert.strictEqual(Endpoint.format(Endpoint.parse(text)), formatted, text)
      }
    })
  })

  it.prop("reads what it has written, IPv4", [v4, port], ([address, port]) => {
    const endpoint = Endpoint.tcp(address, port)
    assert.strictEqual(Endpoint.format(endpoint), `${address}:${port}`)
    assert.isTrue(Equal.equals(Endpoint.parse(`tcp://${Endpoint.format(endpoint)}`), endpoint))
  })

  it.prop("reads what it has written, IPv6", [v6, port], ([address, port]) => {
    const endpoint = Endpoint.tcp(address, port)
    const formatted = Endpoint.format(endpoint)
    assert.match(formatted, /^\[[0-9a-f:.]+\]:\d+$/)
    assert.isTrue(Equal.equals(Endpoint.parse(`tcp://${formatted}`), endpoint), formatted)
    assert.isTrue(Equal.equals(Endpoint.parse(`tcp://[${address}]:${port}/`), endpoint))
  })

  it.prop("is the same as another one exactly when both parts are", [v4, v4, port, port], ([a, b, port1, port2]) => {
    const endpoint = Endpoint.tcp(a, port1)
    assert.isTrue(Equal.equals(endpoint, Endpoint.tcp(a, port1)))
    assert.strictEqual(Hash.hash(endpoint), Hash.hash(Endpoint.tcp(a, port1)))
    for (const [address, port] of [
      [b, port1],
      [a, port2],
      [b, port2]
    ] as const) {
      assert.strictEqual(Equal.equals(endpoint, Endpoint.tcp(address, port)), address === a && port === port1)
    }
    assert.isTrue(Equal.equals(Endpoint.withPort(endpoint, port2), Endpoint.tcp(a, port2)))
  })

  it("knows the addresses that mean every address, and those of this machine", () => {
    const unspecified = ["0.0.0.0", "::"]
    const loopback = ["127.0.0.1", "127.255.255.254", "::1"]
    const others = ["10.0.0.1", "128.0.0.1", "126.255.255.255", "fe80::1", "::2", "0.0.0.1"]
    for (const address of [...unspecified, ...loopback, ...others]) {
      const endpoint = Endpoint.tcp(address, 80)
      assert.strictEqual(Endpoint.isUnspecified(endpoint), unspecified.includes(address), address)
      assert.strictEqual(Endpoint.isLoopback(endpoint), loopback.includes(address), address)
      const every = address.includes(":") ? "[::]:80" : "0.0.0.0:80"
      assert.strictEqual(Endpoint.format(Endpoint.unspecified(endpoint)), every)
    }
  })

  describe("an address in words", () => {
    it("is one word for IPv4 and four for IPv6", () => {
      assert.deepStrictEqual(wordsOf("0.0.0.0"), [0])
      assert.deepStrictEqual(wordsOf("127.0.0.1"), [0x7f000001])
      assert.deepStrictEqual(wordsOf("255.255.255.255"), [-1])
      assert.deepStrictEqual(wordsOf("::"), [0, 0, 0, 0])
      assert.deepStrictEqual(wordsOf("8000:1:2:3:4:5:ffff:ffff"), [0x80000001 | 0, 0x20003, 0x40005, -1])
      assert.deepStrictEqual(wordsOf("::ffff:10.0.0.1"), [0, 0, 0xffff, 0x0a000001])
    })

    it.prop("is the address, bit for bit", [v4, v6], ([v4, v6]) => {
      for (const address of [v4, v6]) {
        const words = wordsOf(address)
        assert.strictEqual(words.length, address === v4 ? 1 : 4)
        assert.strictEqual(numberOf(words), parsed(address))
        for (const word of words) assert.strictEqual(word, word | 0)
      }
    })

    it("is worked out once, whatever the port", () => {
      const endpoint = Endpoint.tcp("fd00::1", 7000)
      const words = Endpoint.addressWords(endpoint)
      assert.strictEqual(Endpoint.addressWords(endpoint), words)
      assert.strictEqual(Endpoint.addressWords(Endpoint.withPort(endpoint, 80)), words)
    })
  })

  describe("a prefix", () => {
    it("is an address and a length, the address alone, and nothing of the bits behind", () => {
      for (const [text, expected, length] of [
        ["10.0.0.0/8", "10.0.0.0/8", 8],
        ["10.255.255.255/8", "10.0.0.0/8", 8],
        ["192.0.2.1", "192.0.2.1/32", 32],
        ["192.0.2.1/32", "192.0.2.1/32", 32],
        ["192.0.2.3/31", "192.0.2.2/31", 31],
        ["255.255.255.255/1", "128.0.0.0/1", 1],
        ["255.255.255.255/0", "0.0.0.0/0", 0],
        ["fd00::/8", "fd00::/8", 8],
        ["FDff:0:0::1/8", "fd00::/8", 8],
        ["::1", "::1/128", 128],
        ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/0", "::/0", 0],
        ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/33", "ffff:ffff:8000::/33", 33],
        ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/64", "ffff:ffff:ffff:ffff::/64", 64],
        ["::ffff:10.1.2.3/104", "::ffff:10.0.0.0/104", 104]
      ] as const) {
        const prefix = Endpoint.prefix(text)
        assert.strictEqual(prefix.text, expected)
        assert.strictEqual(prefix.length, length)
        assert.deepStrictEqual(Endpoint.prefix(expected), prefix)
      }
    })

    it.prop("has as many ones in its masks as it is long, and they come first", [v4, v6, octet], ([v4, v6, octet]) => {
      for (const [address, width] of [
        [v4, 32],
        [v6, 128]
      ] as const) {
        const length = octet % (width + 1)
        const { masks, words } = Endpoint.prefix(`${address}/${length}`)
        const zeros = BigInt(width - length)
        assert.strictEqual(numberOf(masks).toString(2), (((1n << BigInt(length)) - 1n) << zeros).toString(2))
        assert.strictEqual(numberOf(words), (parsed(address) >> zeros) << zeros)
      }
    })

    it("covers what begins with it, and nothing of the other family", () => {
      for (const [prefix, inside, outside] of [
        ["10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0", "a00::", "::ffff:10.0.0.0"]],
        ["192.0.2.1", ["192.0.2.1"], ["192.0.2.0", "192.0.2.2", "::c000:201"]],
        ["0.0.0.0/0", ["0.0.0.0", "255.255.255.255"], ["::", "::ffff:10.0.0.1"]],
        ["::/0", ["::", "ffff::", "::ffff:10.0.0.1"], ["0.0.0.0", "10.0.0.1"]],
        [
          "fd00:0:0:1::/64",
          ["fd00:0:0:1::", "fd00:0:0:1:ffff:ffff:ffff:ffff"],
          ["fd00::", "fd00:0:0:2::", "253.0.0.0"]
        ],
        ["::ffff:10.0.0.0/104", ["::ffff:10.0.0.1"], ["::ffff:11.0.0.1", "10.0.0.1"]]
      ] as const) {
        for (const address of inside) assert.isTrue(Endpoint.covers(Endpoint.prefix(prefix), wordsOf(address)), address)
        for (const address of outside)
          assert.isFalse(Endpoint.covers(Endpoint.prefix(prefix), wordsOf(address)), address)
      }
    })
  })

  describe("says what is wrong with", () => {
    for (const text of [
      "",
      "/8",
      "10.0.0.0/",
      "10.0.0.0/08",
      "10.0.0.0/-1",
      "10.0.0.0/8.5",
      "10.0.0.0/8/8",
      "10.0.0.0/8 ",
      "10.0.0.0/8\n",
      "10.0.0.0/255.0.0.0",
      "10.0.0/8",
      "10.0.0.0:80",
      "10.0.0.0/8:80",
      "[fd00::]/8",
      "fe80::1%eth0/64",
      "localhost",
      "*"
    ]) {
      it(`the prefix ${JSON.stringify(text)}`, () => {
        assert.strictEqual(
          messageOf(() => Endpoint.prefix(text)),
          `the prefix is ${JSON.stringify(text)}: expected ADDRESS or ADDRESS/LENGTH, for example 10.0.0.0/8 or fd00::/8`
        )
      })
    }

    for (const [text, width] of [
      ["10.0.0.0/33", 32],
      ["10.0.0.0/99999999999999999999", 32],
      ["::/129", 128]
    ] as const) {
      it(`the length of the prefix ${text}`, () => {
        assert.strictEqual(
          messageOf(() => Endpoint.prefix(text)),
          `the prefix is "${text}": expected a length from 0 to ${width}`
        )
      })
    }

    const notAnEndpoint = "expected tcp://ADDRESS:PORT, for example tcp://127.0.0.1:7000"
    for (const text of [
      "",
      "127.0.0.1:7000",
      "udp://127.0.0.1:7000",
      "tcp://127.0.0.1",
      "tcp://127.0.0.1:",
      "tcp://:7000",
      "tcp://127.0.0.1:http",
      "tcp://127.0.0.1:-1",
      "tcp://127.0.0.1:7000/path",
      "tcp://127.0.0.1:7000 ",
      "tcp://127.0.0.1:7000\n",
      "tcp://::1:7000",
      "tcp://[::1]",
      "tcp://[127.0.0.1]:7000",
      "tcp://[]:7000",
      "tcp://user@[::1]:7000",
      "tcp://127.0.0.1:000000"
    ]) {
      it(`the text ${JSON.stringify(text)}`, () => {
        const expected = `the endpoint is ${JSON.stringify(text)}: ${notAnEndpoint}`
        assert.strictEqual(
          messageOf(() => Endpoint.parse(text)),
          expected
        )
      })
    }

    for (const address of [
      "",
      "example.com",
      "127.0.0",
      "127.0.0.256",
      "1.2.3.4.5",
      ":::",
      "12345::",
      "[::1]",
      " ::1"
    ]) {
      it(`the address ${JSON.stringify(address)}`, () => {
        assert.strictEqual(
          messageOf(() => Endpoint.tcp(address, 7000)),
          `the address is ${JSON.stringify(address)}: expected an IPv4 or IPv6 address, or localhost`
        )
      })
    }

    for (const port of [-1, 65_536, 1.5, NaN, Infinity, -Infinity]) {
      it(`the port ${port}`, () => {
        assert.strictEqual(
          messageOf(() => Endpoint.tcp("127.0.0.1", port)),
          `the port is ${port}: expected an integer from 0 to 65535`
        )
      })
    }

    it("a text with the port of another machine", () => {
      assert.strictEqual(
        messageOf(() => Endpoint.parse("tcp://[::1]:65536")),
        "the port is 65536: expected an integer from 0 to 65535"
      )
    })
  })

  it.effect("a text from outside is an endpoint or an error in the type", () =>
    Effect.gen(function* () {
      const endpoint = yield* Endpoint.fromString("tcp://[::1]:7000")
      assert.isTrue(Equal.equals(endpoint, Endpoint.tcp("::1", 7000)))
      for (const text of ["nonsense", "tcp://1.2.3:4", "tcp://1.2.3.4:99999"]) {
        const error = yield* Effect.flip(Endpoint.fromString(text))
        assert.deepInclude(error.reason, { _tag: "InvalidArgument" })
        assert.strictEqual(
          error.message,
          messageOf(() => Endpoint.parse(text))
        )
      }
    })
  )
})
