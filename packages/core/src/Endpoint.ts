/**
 * Where an application listens and where it connects to: an internet address
 * and a port, whatever the path of the bytes turns out to be.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as NetAddress from "effect/net/NetAddress"
import * as Result from "effect/Result"
import * as SessionError from "./SessionError.ts"

/**
 * An address and a port. Compares by value.
 *
 * @category models
 * @since 0.1.0
 */
export type Endpoint = NetAddress.InetAddress

const invalid = (what: string, value: unknown, expected: string): SessionError.SessionError =>
  SessionError.make(
    new SessionError.InvalidArgument({
      what,
      value: typeof value === "string" ? JSON.stringify(value) : String(value),
      expected
    })
  )

/**
 * The endpoint for an IP address (`"127.0.0.1"`, `"::1"`, or `"localhost"` for
 * the former) and a port from 0 to 65535. Listening on port 0 picks a free one;
 * listening on `0.0.0.0` or `::` means every address.
 *
 * Throws a `SessionError` with reason `InvalidArgument` for anything else: use
 * {@link fromString} for text that comes from outside the program.
 *
 * **Example** (An endpoint)
 *
 * ```ts
 * import { Endpoint } from "@cut-through/core"
 *
 * Endpoint.format(Endpoint.tcp("::1", 7000)) // => "[::1]:7000"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const tcp = (address: string, port: number): Endpoint => {
  const ip = NetAddress.ipFromString(address === "localhost" ? "127.0.0.1" : address)
  if (Result.isFailure(ip)) throw invalid("the address", address, "an IPv4 or IPv6 address, or localhost")
  const endpoint = NetAddress.inetAddress(ip.success, port)
  if (Result.isFailure(endpoint)) throw invalid("the port", port, "an integer from 0 to 65535")
  return endpoint.success
}

const pattern = /^tcp:\/\/(\[([0-9a-fA-F:.]*:[0-9a-fA-F:.]*)\]|[^:/[\]]+):(\d{1,5})\/?$/

/**
 * The endpoint that a text of the form `tcp://127.0.0.1:7000` or
 * `tcp://[::1]:7000` names. Throws like {@link tcp}.
 *
 * **Example** (Parsing)
 *
 * ```ts
 * import { Endpoint } from "@cut-through/core"
 *
 * Endpoint.parse("tcp://localhost:7000").port // => 7000
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const parse = (text: string): Endpoint => {
  const match = pattern.exec(text)
  if (match === null) throw invalid("the endpoint", text, "tcp://ADDRESS:PORT, for example tcp://127.0.0.1:7000")
  return tcp(match[2] ?? match[1], Number(match[3]))
}

/**
 * Like {@link parse}, with the error in the type: for text that comes from
 * outside the program.
 *
 * **Example** (Checking a command line argument)
 *
 * ```ts
 * import { Endpoint } from "@cut-through/core"
 * import { Effect } from "effect"
 *
 * const error = await Effect.runPromise(Effect.flip(Endpoint.fromString("tcp://127.0.0.1:99999")))
 * error.message // => "the port is 99999: expected an integer from 0 to 65535"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const fromString = (text: string): Effect.Effect<Endpoint, SessionError.SessionError> =>
  Effect.try({ try: () => parse(text), catch: (error) => error as SessionError.SessionError })

/**
 * `127.0.0.1:7000`, `[::1]:7000`.
 *
 * @category conversions
 * @since 0.1.0
 */
export const format = (self: Endpoint): string => NetAddress.formatInet(self)

/**
 * The same address with another port.
 *
 * @category combinators
 * @since 0.1.0
 */
export const withPort = (self: Endpoint, port: number): Endpoint => NetAddress.inetAddressUnsafe(self.address, port)

/**
 * Whether the address stands for every address: `0.0.0.0` or `::`.
 *
 * @category predicates
 * @since 0.1.0
 */
export const isUnspecified = (self: Endpoint): boolean => NetAddress.isUnspecified(self.address)

/**
 * Whether the address is of this machine only: `127.0.0.0/8` or `::1`.
 *
 * @category predicates
 * @since 0.1.0
 */
export const isLoopback = (self: Endpoint): boolean => NetAddress.isLoopback(self.address)

/**
 * The endpoint with the unspecified address of the same family and this port.
 *
 * @category combinators
 * @since 0.1.0
 */
export const unspecified = (self: Endpoint): Endpoint =>
  NetAddress.inetAddressUnsafe(
    self._tag === "InetAddressV4" ? NetAddress.ipv4Unspecified : NetAddress.ipv6Unspecified,
    self.port
  )
