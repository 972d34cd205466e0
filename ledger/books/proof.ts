import { z } from 'zod';
import type { Ledger } from '../client.ts';
import { type BookProblem, type BooksReport, verifyBooks } from './verify-books.ts';

export interface BooksProof extends BooksReport {
  at: Date;
  seconds: number;
}

const Found = z.array(z.object({ kind: z.string(), id: z.string(), detail: z.string() }));

/** Verifies the books now, and keeps the outcome as the last proof. */
export async function readBooksProof(ledger: Ledger, nowMs: number): Promise<BooksProof> {
  const began = performance.now();
  const report = await verifyBooks(ledger);
  const proof = { ...report, at: new Date(nowMs), seconds: (performance.now() - began) / 1000 };
  const data = { ...proof, found: proof.found.map((problem) => ({ ...problem })) };
  await ledger.booksProof.upsert({ where: { row: 1 }, create: data, update: data });
  return proof;
}

/** The outcome of the last proof; null: there was none yet. */
export async function readLastProof(ledger: Ledger): Promise<BooksProof | null> {
  const row = await ledger.booksProof.findUnique({ where: { row: 1 } });
  return row === null ? null : { ...row, found: Found.parse(row.found) as BookProblem[] };
}
