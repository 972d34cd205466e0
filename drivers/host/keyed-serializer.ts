/** Runs acts with the same key one after the other. */
export function createKeyedSerializer<K>() {
  const last = new Map<K, Promise<unknown>>();
  return async <T>(key: K, act: () => Promise<T>): Promise<T> => {
    const before = last.get(key) ?? Promise.resolve();
    const mine = before.then(act, act);
    last.set(key, mine);
    try {
      return await mine;
    } finally {
      if (last.get(key) === mine) last.delete(key);
    }
  };
}
