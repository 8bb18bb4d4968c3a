/** Endpoints as programs that come from `node:net` write them. */
import * as Endpoint from "@cut-through/core/Endpoint"
import * as SessionError from "@cut-through/core/SessionError"
import * as Effect from "effect/Effect"
import { AddressResolver } from "effect/net/AddressResolver"
import * as NetAddress from "effect/net/NetAddress"
import * as Option from "effect/Option"
import * as Dns from "node:dns"

/** An endpoint, a text such as `tcp://localhost:7000`, or a host and a port. Names are looked up. */
export type Target = Endpoint.Endpoint | string | { readonly host?: string | undefined; readonly port: number }

const pattern = /^(?:tcp:\/\/)?(\[[^\]]+\]|[^:/[\]]+):(\d{1,5})\/?$/

/** The endpoint that is meant. A name is asked for each time, because its answer may change. */
export const resolve = (
  target: Target,
  anyHost: string
): Effect.Effect<Endpoint.Endpoint, SessionError.SessionError> => {
  if (typeof target === "object" && "_tag" in target) return Effect.succeed(target)
  if (typeof target === "object") return resolveHost(target.host ?? anyHost, target.port)
  const match = pattern.exec(target)
  // It says best what is wrong with it.
  if (match === null) return Endpoint.fromString(target)
  return resolveHost(match[1].startsWith("[") ? match[1].slice(1, -1) : match[1], Number(match[2]))
}

const resolveHost = (host: string, port: number): Effect.Effect<Endpoint.Endpoint, SessionError.SessionError> =>
  Effect.suspend(() => {
    const isAddress = host === "localhost" || /^[\d.]+$/.test(host) || host.includes(":")
    return isAddress ? make(host, port) : Effect.flatMap(lookup(host, port), (address) => make(address, port))
  })

const make = (address: string, port: number): Effect.Effect<Endpoint.Endpoint, SessionError.SessionError> =>
  Effect.try({ try: () => Endpoint.tcp(address, port), catch: (error) => error as SessionError.SessionError })

/** Whoever resolves names for the program does it, a simulated network for example; else the system. */
const lookup = (host: string, port: number): Effect.Effect<string, SessionError.SessionError> =>
  Effect.flatMap(Effect.serviceOption(AddressResolver), (resolver) => {
    const unknown = () => SessionError.make(new SessionError.NoRoute({ endpoint: `${host}:${port}` }))
    if (Option.isSome(resolver)) {
      return Effect.mapBoth(resolver.value.resolve({ host, port }), {
        onFailure: unknown,
        onSuccess: ([{ address }]) => NetAddress.formatIp(address)
      })
    }
    return Effect.callback((resume) =>
      Dns.lookup(host, (error, address) => resume(error === null ? Effect.succeed(address) : Effect.fail(unknown())))
    )
  })
