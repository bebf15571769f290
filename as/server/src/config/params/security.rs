//! Parameters of the `security` context: access control and its audit log.

use crate::config::setting::{Choice, Flag, List, Number, Text, choices};
use crate::config::spec::{boolean, choice, number, params, seconds, text, texts, word_pairs};

choices! {
    /// How session tokens are hashed.
    pub enum TokenHash {
        /// SHA-256.
        Sha256 = "sha-256",
        /// SHA-512.
        Sha512 = "sha-512",
    }
}

params! {
    /// The `security` context.
    pub struct SecurityParams {
        /// File with the password of the first administrator.
        default_password_file: Text = None, text("default-password-file").enterprise();
        /// Limits the operations per second of each user to the quotas of its roles.
        enable_quotas: Flag = false, boolean("enable-quotas").dynamic().enterprise();
        /// Seconds between checks whether users' privileges have changed. Without effect: changes apply at once.
        privilege_refresh_period: Number<u32> = 300,
            seconds("privilege-refresh-period", 10, 86_400).dynamic().enterprise();
        /// Seconds for which a session token is valid.
        session_ttl: Number<u32> = 86_400, seconds("session-ttl", 120, 864_000).dynamic().enterprise();
        /// How strongly the last second counts when operations per second are averaged.
        tps_weight: Number<u32> = 2, number("tps-weight", 2, 20).dynamic().enterprise();
    }
}

params! {
    /// The `security.ldap` context.
    pub struct LdapParams {
        /// Connects to the directory without TLS.
        disable_tls: Flag = false, boolean("disable-tls").enterprise();
        /// Threads that log users in.
        login_threads: Number<u32> = 8, number("login-threads", 1, 64).enterprise();
        /// Seconds between checks whether users' roles in the directory have changed; 0 means never.
        polling_period: Number<u32> = 300, seconds("polling-period", 0, 86_400).dynamic().enterprise();
        /// Part of the directory in which users are looked up.
        query_base_dn: Text = None, text("query-base-dn").enterprise();
        /// Name under which the server logs in to the directory.
        query_user_dn: Text = None, text("query-user-dn").enterprise();
        /// File with the password for that login.
        query_user_password_file: Text = None, text("query-user-password-file").enterprise();
        /// Part of the directory in which roles are looked up.
        role_query_base_dn: Text = None, text("role-query-base-dn").enterprise();
        /// Filter that finds the roles of a user; may be repeated.
        role_query_pattern: List<String> = [], texts("role-query-pattern", 64, usize::MAX).enterprise();
        /// Looks for roles among the organizational units too.
        role_query_search_ou: Flag = false, boolean("role-query-search-ou").enterprise();
        /// Address of the directory server.
        server: Text = None, text("server").enterprise();
        /// How session tokens are hashed.
        token_hash_method: Choice<TokenHash> = TokenHash::Sha256, choice::<TokenHash>("token-hash-method").dynamic().enterprise();
        /// File with the certificates that sign that of the directory server.
        tls_ca_file: Text = None, text("tls-ca-file").enterprise();
        /// Pattern that makes the distinguished name from a user's name.
        user_dn_pattern: Text = None, text("user-dn-pattern").enterprise();
        /// Filter that finds a user.
        user_query_pattern: Text = None, text("user-query-pattern").enterprise();
    }
}

params! {
    /// The `security.log` context: what the audit log reports.
    pub struct SecurityLogParams {
        /// Reports logins.
        report_authentication: Flag = false, boolean("report-authentication").dynamic().enterprise();
        /// A namespace, and perhaps a set, whose operations are reported; may be repeated.
        report_data_op: List<String> = [], word_pairs("report-data-op", 4_096).dynamic().enterprise();
        /// A role whose operations are reported; may be repeated.
        report_data_op_role: List<String> = [], texts("report-data-op-role", 4_096, usize::MAX).dynamic().enterprise();
        /// A user whose operations are reported; may be repeated.
        report_data_op_user: List<String> = [], texts("report-data-op-user", 4_096, usize::MAX).dynamic().enterprise();
        /// Reports changes of the system.
        report_sys_admin: Flag = false, boolean("report-sys-admin").dynamic().enterprise();
        /// Reports changes of users.
        report_user_admin: Flag = false, boolean("report-user-admin").dynamic().enterprise();
        /// Reports refused operations.
        report_violation: Flag = false, boolean("report-violation").dynamic().enterprise();
    }
}
