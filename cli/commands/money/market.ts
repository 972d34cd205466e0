import { type Command, InvalidArgumentError } from 'commander';
import { parseUnits } from '../../../model/books/money.ts';
import { callEmpty, callJson, postOnce, type Session } from '../../client.ts';
import { resolveOwner } from '../../names.ts';
import { collect, given, wholeNumber } from '../../options.ts';
import { print, printOne, printRows } from '../../output.ts';
import { units } from './units.ts';

interface Offer {
  id: string;
  provider: string;
  currency: string;
  rates: { vcpuHourMicros: string; memoryGiBHourMicros: string; diskGiBHourMicros: string };
  measured: { bootS: number | null; moveS: number | null; mibPerS: number | null; reliability: number | null };
}

interface Provider {
  name: string;
  owner: string;
  hosts: number;
}

function price(argument: string): string {
  const micros = parseUnits(argument);
  if (micros === null || micros < 0n) throw new InvalidArgumentError('expected a price of an hour, such as 0.02');
  return String(micros);
}

function share(argument: string): number {
  const value = Number(argument);
  if (!(value >= 0 && value <= 1)) throw new InvalidArgumentError('expected a number from 0 to 1, such as 0.99');
  return value;
}

const rounded = (value: number | null, digits: number): string | null => (value === null ? null : value.toFixed(digits));

function addOffers(market: Command, { connect, output }: Session): void {
  market
    .command('offers', { isDefault: true })
    .description('offers that hold now, with what the site has measured of their providers')
    .addHelpText('after', '\nExample:\n  berth market offers')
    .action(async () => {
      const { items } = await callJson<{ items: Offer[] }>(connect(), '/v1/offers');
      printRows(output(), items, {
        offer: ({ id }) => id,
        provider: ({ provider }) => provider,
        currency: ({ currency }) => currency,
        vcpu: ({ rates }) => units(rates.vcpuHourMicros),
        memory: ({ rates }) => units(rates.memoryGiBHourMicros),
        disk: ({ rates }) => units(rates.diskGiBHourMicros),
        boot: ({ measured }) => rounded(measured.bootS, 1),
        move: ({ measured }) => rounded(measured.moveS, 1),
        reliability: ({ measured }) => rounded(measured.reliability, 4),
      });
    });

  market
    .command('publish')
    .description("publish a provider's prices, from now on (its owner)")
    .argument('<provider>', 'its name')
    .argument('<currency>', 'three capital letters, such as EUR')
    .requiredOption('--vcpu <price>', 'of a vCPU for an hour', price)
    .requiredOption('--memory <price>', 'of a GiB of memory for an hour', price)
    .requiredOption('--disk <price>', 'of a GiB of disk for an hour', price)
    .addHelpText('after', '\nExample:\n  berth market publish north EUR --vcpu 0.02 --memory 0.005 --disk 0.0001')
    .action(async (provider: string, currency: string, options: { vcpu: string; memory: string; disk: string }) => {
      const rates = { vcpuHourMicros: options.vcpu, memoryGiBHourMicros: options.memory, diskGiBHourMicros: options.disk };
      printOne(output(), await postOnce<object>(connect(), '/v1/offers', { provider, currency, rates }));
    });

  market
    .command('end')
    .description('end an offer; what was accepted by it keeps its prices')
    .argument('<offer>', 'its id')
    .addHelpText('after', '\nExample:\n  berth market end offer_01jd7x3v8ve5hb1f5wwfb2x5r1')
    .action(async (id: string) => {
      await callEmpty(connect(), `/v1/offers/${encodeURIComponent(id)}`, { method: 'DELETE' });
      print(output(), output().json ? JSON.stringify({ ended: id }) : `${id} is ended`);
    });
}

interface BuyOptions {
  image: string;
  vcpus?: number;
  memoryMib?: number;
  diskMib?: number;
  maxHour?: string;
  provider: string[];
  minReliability?: number;
  move?: boolean;
}

function addBuy(market: Command, { connect, output }: Session): void {
  market
    .command('buy')
    .description('create a VM at the cheapest offer that meets the constraints, where there is room')
    .argument('<name>', 'of the VM')
    .requiredOption('--image <name>', 'it is made from')
    .option('--vcpus <count>', 'default 1', wholeNumber)
    .option('--memory-mib <count>', 'default 256', wholeNumber)
    .option('--disk-mib <count>', 'data disk, default 512', wholeNumber)
    .option('--max-hour <price>', 'the limit: no offer at which an hour of it costs more', price)
    .option('--provider <name>', 'only this one; may be repeated', collect, [])
    .option('--min-reliability <share>', 'of what ran there, as measured', share)
    .option('--move', 'it may move to a better offer by itself')
    .addHelpText('after', '\nExample:\n  berth market buy web --image debian-12 --vcpus 2 --max-hour 0.05 --move')
    .action(async (name: string, options: BuyOptions) => {
      const { image, vcpus = 1, memoryMib = 256, diskMib = 512, maxHour, provider, minReliability, move } = options;
      const providers = provider.length === 0 ? undefined : provider;
      const terms = given({ maxHourMicros: maxHour, providers, minReliability, move });
      const resources = { vcpus, memoryMiB: memoryMib, diskMiB: diskMib };
      printOne(output(), await postOnce<object>(connect(), '/v1/vms', { name, image, resources, market: terms }));
    });
}

function addProviders(program: Command, { connect, output }: Session): void {
  const providers = program.command('providers').description('who provides hosts, and with which tokens machines join');

  providers
    .command('list', { isDefault: true })
    .description('providers that somebody owns')
    .addHelpText('after', '\nExample:\n  berth providers list')
    .action(async () => {
      const { items } = await callJson<{ items: Provider[] }>(connect(), '/v1/providers');
      printRows(output(), items, { name: ({ name }) => name, owner: ({ owner }) => owner, hosts: ({ hosts }) => hosts });
    });

  providers
    .command('add')
    .description('give a provider to an owner (operators)')
    .argument('<name>', 'of the provider')
    .argument('<owner>', 'its id or name')
    .addHelpText('after', '\nExample:\n  berth providers add north ann')
    .action(async (name: string, whose: string) => {
      const connection = connect();
      const owner = await resolveOwner(connection, whose);
      printOne(output(), await postOnce<object>(connection, '/v1/providers', { name, owner }));
    });

  providers
    .command('token')
    .description('make the token with which one machine joins (BERTH_JOIN_TOKEN); it is shown once')
    .argument('<provider>', 'its name')
    .option('--valid-s <seconds>', 'until when it has to have joined; default a day', wholeNumber)
    .addHelpText('after', '\nExample:\n  berth providers token north')
    .action(async (provider: string, { validS }: { validS?: number }) => {
      const path = `/v1/providers/${encodeURIComponent(provider)}/tokens`;
      printOne(output(), await callJson<object>(connect(), path, { method: 'POST', json: given({ validS }) }));
    });
}

/** `berth market …` and `berth providers …`. */
export function addMarketCommands(program: Command, session: Session): void {
  const market = program.command('market').description('offers of providers, and VMs that take the cheapest');
  addOffers(market, session);
  addBuy(market, session);
  addProviders(program, session);
}
