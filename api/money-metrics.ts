import { Gauge, type Registry } from 'prom-client';
import type { MoneyAtRisk, MoneyTotals } from '../ledger/market/money-totals.ts';
import type { MarketCount } from '../ledger/offers/market-counts.ts';

const units = (micros: number): number => micros / 1e6;

/** Gauges of the money of leases that are not over, and of the market. */
export function openMoneyMetrics(
  registry: Registry,
  read: () => Promise<MoneyTotals[]>,
  readAtRisk: () => Promise<MoneyAtRisk[]>,
  readMarket: () => Promise<MarketCount[]>,
): void {
  new Gauge({
    name: 'berth_money_at_risk',
    help: 'What the site may not get, in units of the currency: accounts below zero (credit), what holds of leases lack (unheld), and what no account had of their charges (uncollected)',
    labelNames: ['currency', 'of'],
    registers: [registry],
    async collect() {
      this.reset();
      for (const { currency, ...parts } of await readAtRisk())
        for (const part of ['credit', 'unheld', 'uncollected'] as const) this.set({ currency, of: part }, units(parts[part]));
    },
  });
  new Gauge({
    name: 'berth_bills',
    help: 'Leases with a bill that are not over, by whether their owner was warned or they were suspended when money ended',
    labelNames: ['currency', 'state'],
    registers: [registry],
    async collect() {
      this.reset();
      for (const { currency, state, bills } of await read()) this.set({ currency, state }, bills);
    },
  });
  new Gauge({
    name: 'berth_money_held',
    help: 'What is held for them, in units of the currency',
    labelNames: ['currency', 'state'],
    registers: [registry],
    async collect() {
      this.reset();
      for (const { currency, state, held } of await read()) this.set({ currency, state }, units(held));
    },
  });
  new Gauge({
    name: 'berth_money_uncollected',
    help: 'What of their charges no account had, in units of the currency',
    labelNames: ['currency', 'state'],
    registers: [registry],
    async collect() {
      this.reset();
      for (const { currency, state, uncollected } of await read()) this.set({ currency, state }, units(uncollected));
    },
  });
  new Gauge({
    name: 'berth_bill_overdue_seconds',
    help: 'For how long the lease that waits longest has waited for its charge; 0: none waits',
    registers: [registry],
    async collect() {
      this.set((await read()).reduce((most, { overdueS }) => Math.max(most, overdueS), 0));
    },
  });
  const ofMarket = (of: MarketCount['of'], label: string, help: string): Gauge =>
    new Gauge({
      name: `berth_market_${of}`,
      help,
      labelNames: [label],
      registers: [registry],
      async collect() {
        this.reset();
        for (const row of await readMarket()) if (row.of === of) this.set({ [label]: row.name }, row.count);
      },
    });
  ofMarket('offers', 'currency', 'Offers of providers that hold now');
  ofMarket('orders', 'state', 'Orders that pay by offers and are not over: placed, or waiting for room at one of their offers');
}
