import { z } from 'zod';
import { acceptOfferOnce, changeOfferEnded, type OfferRecord, readOffers } from '../../../ledger/offers/offers.ts';
import {
  acceptJoinToken,
  acceptProviderOnce,
  findProvider,
  type ProviderRecord,
  readProviders,
} from '../../../ledger/offers/providers.ts';
import type { ApiDeps } from '../../deps.ts';
import { json, noContent } from '../../http/answer.ts';
import { visibleOwner } from '../../http/auth.ts';
import { idempotentPost } from '../../http/idempotency.ts';
import { type Operation, operation } from '../../http/operation.ts';
import { Id, iso } from '../../schemas/common.ts';
import {
  JoinToken,
  JoinTokenOrder,
  Offer,
  OfferOrder,
  OfProvider,
  Provider,
  ProviderOrder,
  PublishedOffer,
} from '../../schemas/money/market.ts';

const showProvider = ({ ownerId, createdAt, ...row }: ProviderRecord): z.input<typeof Provider> => ({
  ...row,
  owner: ownerId,
  createdAt: createdAt.toISOString(),
});

type Published = Pick<OfferRecord, 'id' | 'provider' | 'currency' | 'rates' | 'validFrom' | 'validUntil'>;

const showPublished = ({ id, provider, currency, rates, validFrom, validUntil }: Published): z.input<typeof PublishedOffer> => ({
  id,
  provider,
  currency,
  rates,
  validFrom: validFrom.toISOString(),
  validUntil: iso(validUntil),
});

const showOffer = (row: OfferRecord): z.input<typeof Offer> => ({
  ...showPublished(row),
  largest: row.largest,
  measured: row.measured,
});

export function marketRoutes({ ledger, log, clock }: ApiDeps): Operation[] {
  return [
    operation({
      method: 'get',
      path: '/v1/providers',
      id: 'listProviders',
      tag: 'market',
      summary: 'Providers that somebody owns',
      description: "A client's own; operators see all.",
      access: 'client',
      answers: { 200: { description: 'By name', schema: z.strictObject({ items: z.array(Provider) }) } },
      problems: [],
      handle: async ({ caller }) => json(200, { items: (await readProviders(ledger, visibleOwner(caller))).map(showProvider) }),
    }),
    operation({
      method: 'post',
      path: '/v1/providers',
      id: 'addProvider',
      tag: 'market',
      summary: 'Give a provider to an owner',
      description: 'From then on its hosts join by tokens, and its owner publishes its offers and sees its accounts.',
      access: 'operator',
      body: ProviderOrder,
      answers: { 201: { description: 'Given', schema: Provider } },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, body, idempotencyKey }) => {
        const request = idempotentPost(caller, idempotencyKey, '/v1/providers', body);
        const order = { name: body.name, ownerId: body.owner, nowMs: clock() };
        const { answer } = await acceptProviderOnce(ledger, request, order, (row) => json(201, showProvider(row)));
        log.info({ provider: body.name, owner: body.owner, keyId: caller.keyId }, 'provider added');
        return answer;
      },
    }),
    operation({
      method: 'post',
      path: '/v1/providers/{provider}/tokens',
      id: 'makeJoinToken',
      tag: 'market',
      summary: 'Make a token with which one machine joins as a host of the provider',
      description: 'Each call makes another one: no answer is kept, with an Idempotency-Key either.',
      access: 'client',
      params: OfProvider,
      body: JoinTokenOrder,
      answers: { 201: { description: 'Shown once', schema: JoinToken } },
      problems: ['not-found'],
      handle: async ({ caller, params, body }) => {
        const { name } = await findProvider(ledger, visibleOwner(caller), params.provider);
        const made = await acceptJoinToken(ledger, name, { nowMs: clock(), validS: body.validS });
        log.info({ provider: name, token: made.id, keyId: caller.keyId }, 'join token made');
        return json(201, { ...made, expiresAt: made.expiresAt.toISOString() });
      },
    }),
    operation({
      method: 'get',
      path: '/v1/offers',
      id: 'listOffers',
      tag: 'market',
      summary: 'Offers that hold now, with what the site has measured of their providers',
      access: 'client',
      answers: { 200: { description: 'By provider', schema: z.strictObject({ items: z.array(Offer) }) } },
      problems: [],
      handle: async () => json(200, { items: (await readOffers(ledger, clock())).map(showOffer) }),
    }),
    operation({
      method: 'post',
      path: '/v1/offers',
      id: 'publishOffer',
      tag: 'market',
      summary: "Publish a provider's prices",
      description: 'They hold from now on, and replace those of the same currency; what was accepted keeps its own.',
      access: 'client',
      body: OfferOrder,
      answers: { 201: { description: 'Published', schema: PublishedOffer } },
      problems: ['not-found'],
      handle: async ({ caller, body, idempotencyKey }) => {
        const { name: provider } = await findProvider(ledger, visibleOwner(caller), body.provider);
        const request = idempotentPost(caller, idempotencyKey, '/v1/offers', body);
        const { currency, rates, validUntil } = body;
        const validUntilMs = validUntil === undefined ? null : Date.parse(validUntil);
        const order = { provider, currency, rates, validUntilMs, nowMs: clock() };
        const { answer, id } = await acceptOfferOnce(ledger, request, order, (row) =>
          json(201, showPublished(row), `/v1/offers/${row.id}`),
        );
        log.info({ offer: id, provider, keyId: caller.keyId }, 'offer published');
        return answer;
      },
    }),
    operation({
      method: 'delete',
      path: '/v1/offers/{id}',
      id: 'endOffer',
      tag: 'market',
      summary: 'End an offer',
      description: 'Nothing is accepted by it from now on; what was keeps its prices.',
      access: 'client',
      params: Id,
      answers: { 204: { description: 'Ended' } },
      problems: ['not-found'],
      handle: async ({ caller, params: { id } }) => {
        await changeOfferEnded(ledger, visibleOwner(caller), id, clock());
        return noContent;
      },
    }),
  ];
}
