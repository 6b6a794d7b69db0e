export declare const VERIFY_CHECKS: { script: string; what: string; needs: string }[];
