/**
 * Makes certificates for tests: an authority like that of `godwit setup`, whose clients it signs and revokes.
 */
import 'reflect-metadata'
import { webcrypto } from 'node:crypto'
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  X509Certificate,
  X509CertificateGenerator,
  X509CrlGenerator,
} from '@peculiar/x509'
import {
  createAuthority,
  createServerCertificate,
  type IssuedCertificate,
} from '../../../src/runtime/certificates/certificates.ts'

const CURVE = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const

export const DAY_MS = 86_400_000

/** When a certificate holds, in ms of the wall clock. */
interface Times {
  readonly from?: number
  readonly to?: number
}

export class Authority {
  readonly issued: IssuedCertificate
  readonly #certificate: X509Certificate

  private constructor(issued: IssuedCertificate) {
    this.issued = issued
    this.#certificate = new X509Certificate(issued.certificate)
  }

  static async create(name = 'Tests'): Promise<Authority> {
    return new Authority(await createAuthority(name, Date.now()))
  }

  /** For localhost and loopback; `nowMs` is when it seems to be made. */
  server(nowMs = Date.now()): Promise<IssuedCertificate> {
    const names = { names: ['localhost'], addresses: ['127.0.0.1', '::1'] }
    return createServerCertificate(this.issued, names, nowMs)
  }

  async client(
    commonName: string,
    { from = Date.now() - DAY_MS, to = Date.now() + DAY_MS }: Times = {},
  ): Promise<IssuedCertificate & { readonly serialNumber: string }> {
    const keys = await webcrypto.subtle.generateKey(CURVE, true, ['sign', 'verify'])
    const certificate = await X509CertificateGenerator.create({
      issuer: this.#certificate.subjectName,
      subject: `CN=${commonName}`,
      notBefore: new Date(from),
      notAfter: new Date(to),
      signingAlgorithm: CURVE,
      publicKey: keys.publicKey,
      signingKey: await this.#key(),
      extensions: [
        new BasicConstraintsExtension(false),
        new ExtendedKeyUsageExtension([ExtendedKeyUsage.clientAuth]),
        new SubjectAlternativeNameExtension([
          { type: 'dns', value: `${commonName}.example.org` },
          { type: 'url', value: `urn:device:${commonName}` },
        ]),
        await AuthorityKeyIdentifierExtension.create(this.#certificate),
      ],
    })
    const key = await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)
    return {
      certificate: certificate.toString('pem'),
      key: PemConverter.encode(key, 'PRIVATE KEY'),
      serialNumber: certificate.serialNumber,
    }
  }

  /** A list of revoked certificates. */
  crl(...revoked: readonly { readonly serialNumber: string }[]): Promise<string> {
    return this.crlUntil(Date.now() + DAY_MS, ...revoked)
  }

  /** One that is replaced at this time of the wall clock. */
  async crlUntil(
    nextUpdate: number,
    ...revoked: readonly { readonly serialNumber: string }[]
  ): Promise<string> {
    const crl = await X509CrlGenerator.create({
      issuer: this.#certificate.subjectName,
      thisUpdate: new Date(Math.min(Date.now(), nextUpdate) - DAY_MS),
      nextUpdate: new Date(nextUpdate),
      signingAlgorithm: CURVE,
      signingKey: await this.#key(),
      entries: revoked.map(({ serialNumber }) => ({ serialNumber, revocationDate: new Date() })),
    })
    return PemConverter.encode(crl.rawData, 'X509 CRL')
  }

  #key(): Promise<webcrypto.CryptoKey> {
    const bytes = PemConverter.decodeFirst(this.issued.key)
    return webcrypto.subtle.importKey('pkcs8', bytes, CURVE, false, ['sign'])
  }
}
