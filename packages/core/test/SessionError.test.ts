import { SessionError } from "@cut-through/core"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

const endpoint = "192.0.2.7:4711"
const bytesReceived = 123_456

// Each reason, and what its message has to say: what was tried, and what to do about it.
const cases: {
  readonly [Tag in SessionError.Reason["_tag"]]: readonly [SessionError.Reason, ...Array<string | RegExp>]
} = {
  InvalidArgument: [
    new SessionError.InvalidArgument({ what: "rxFifoSize", value: "17 apples", expected: "1 to 2 bytes" }),
    "rxFifoSize",
    "17 apples",
    /expected 1 to 2 bytes$/
  ],
  AlreadyListening: [new SessionError.AlreadyListening({ endpoint }), endpoint, /close the other listener.*port 0/i],
  NoRoute: [new SessionError.NoRoute({ endpoint }), endpoint, /listen first.*check the address/i],
  Scope: [
    new SessionError.Scope({ endpoint, scope: "local" }),
    `cannot reach ${endpoint} with local scope`,
    /attach the application with scope "both".*within reach/
  ],
  LocalConnect: [
    new SessionError.LocalConnect({ endpoint }),
    `listens on ${endpoint}`,
    "this session layer",
    /try another transport$/
  ],
  Filtered: [
    new SessionError.Filtered({ endpoint, rule: "[tcp] *:* -> 192.0.2.0/24:* action drop tag none hits 1" }),
    `connect to ${endpoint} was dropped`,
    "session rule [tcp] *:* -> 192.0.2.0/24:* action drop tag none hits 1",
    /remove the rule, or add a longer one that allows it$/
  ],
  UnknownNamespace: [
    new SessionError.UnknownNamespace({ namespace: 'pay"ments' }),
    String.raw`no namespace "pay\"ments"`,
    /add it first, with Sessions\.addNamespace$/
  ],
  WrongNamespaceSecret: [
    new SessionError.WrongNamespaceSecret({ namespace: 'pay"ments' }),
    String.raw`secret given for the namespace "pay\"ments"`,
    /attach with that one$/
  ],
  QuotaExceeded: [
    new SessionError.QuotaExceeded({ app: "web", quota: "maxSessions", limit: 100, what: "sessions" }),
    "the application web has 100 sessions already",
    /finish some first, or attach it with a higher maxSessions$/
  ],
  Refused: [new SessionError.Refused({ endpoint, why: "the backlog is full" }), endpoint, "backlog", /try again/i],
  TimedOut: [
    new SessionError.TimedOut({ endpoint, millis: 1500 }),
    `${endpoint} has not answered for 1500 ms`,
    /check that the host is up.*try again$/
  ],
  AllocFailed: [
    new SessionError.AllocFailed({ what: "a segment", bytes: 4096, cause: new Error("out of memory") }),
    "a segment",
    "4096",
    /close connections.*smaller/i
  ],
  Closed: [new SessionError.Closed({ what: "listener" }), "listener", /open|keep/i],
  Reset: [new SessionError.Reset({ endpoint, bytesReceived }), endpoint, `${bytesReceived}`, /connect again/i],
  BrokenPipe: [
    new SessionError.BrokenPipe({ endpoint, why: "this side has ended its stream" }),
    endpoint,
    "this side has ended its stream",
    /connect again/i
  ],
  PeerDied: [new SessionError.PeerDied({ endpoint, bytesReceived }), endpoint, `${bytesReceived}`, /connect again/i],
  CorruptSegment: [new SessionError.CorruptSegment({ endpoint }), endpoint, "corrupt", /connect again/i],
  NoHost: [
    new SessionError.NoHost({ host: "mail", threadId: 3 }),
    '"mail"',
    "thread 3",
    /provide CutThroughNode\.layer/
  ]
}

describe("SessionError", () => {
  it("has no reason that is not tested here", () => {
    assert.sameMembers(
      SessionError.Reason.members.map((member) => member.fields._tag.schema.literal),
      Object.keys(cases)
    )
  })

  for (const [tag, [reason, ...said]] of Object.entries(cases)) {
    it(`${tag} says what was tried and what to do`, () => {
      assert.strictEqual(reason._tag, tag)
      const error = SessionError.make(reason)
      assert.strictEqual(error.message, reason.message)
      for (const part of said) {
        if (typeof part === "string") assert.include(error.message, part)
        else assert.match(error.message, part)
      }
      assert.notMatch(error.message, /undefined|null|NaN|\[object|\.$|\n/)
    })

    it.effect(`${tag} can be told from the others`, () =>
      Effect.gen(function* () {
        for (const [other] of Object.values(cases)) {
          const caught = yield* Effect.fail(SessionError.make(other)).pipe(
            Effect.catchReason("SessionError", tag as SessionError.Reason["_tag"], (reason) => Effect.succeed(reason)),
            Effect.catch(() => Effect.succeed("not caught"))
          )
          assert.strictEqual(caught, other._tag === tag ? other : "not caught")
        }
      })
    )

    it(`${tag} arrives unchanged where it is sent as JSON`, () => {
      const codec = Schema.toCodecJson(SessionError.SessionError)
      const sent = JSON.stringify(Schema.encodeSync(codec)(SessionError.make(reason)))
      const arrived = Schema.decodeUnknownSync(codec)(JSON.parse(sent))
      assert.instanceOf(arrived, SessionError.SessionError)
      assert.strictEqual(arrived.reason._tag, tag)
      assert.strictEqual(arrived.message, reason.message)
    })
  }

  it("messages say each of their fields", () => {
    for (const [reason] of Object.values(cases)) {
      for (const [field, value] of Object.entries(reason)) {
        if (field === "_tag" || field === "cause") continue
        // As it is, or as a text of its own.
        const said = [String(value), JSON.stringify(value)].some((text) => reason.message.includes(text))
        assert.isTrue(said, `${reason._tag}.${field}`)
      }
    }
  })

  it("is an error with a stack, and its reason keeps the cause", () => {
    const cause = new Error("out of memory")
    const error = SessionError.make(new SessionError.AllocFailed({ what: "a segment", bytes: 1, cause }))
    assert.instanceOf(error, Error)
    assert.strictEqual(error._tag, "SessionError")
    assert.include(error.stack, "SessionError")
    assert.strictEqual(error.reason.cause, cause)
  })
})
