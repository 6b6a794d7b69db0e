// Checks that are too large, or need too much, for `npm test`. One entry per `verify:*` script of package.json; a test
// compares the two lists.

/** @type {{ script: string, what: string, needs: string }[]} */
export const VERIFY_CHECKS = [];
